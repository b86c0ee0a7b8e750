"""Traces cost nothing and send nothing where nobody asked for them, and never hold a program up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from billing_service import tracing

ROOT = Path(__file__).parents[2]
KEPT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_KEPT = KEPT[:-1] + "0"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Trace into memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off_unless_an_endpoint_is_set_and_then_the_sdk_is_not_even_imported(environment: dict[str, str]) -> None:
    program = """
import sys, threading
from billing_service import tracing
print(tracing.start("x"), "opentelemetry.sdk" in sys.modules, "requests" in sys.modules, threading.active_count())
"""
    assert run(program, **environment) == "False False False 1"


def test_a_collector_that_is_away_holds_no_end_up() -> None:
    """What cannot be sent is given up at the stop, and the program ends with its own exit code."""
    program = """
from billing_service import tracing
assert tracing.start("x")
with tracing.span("one"):
    pass
tracing.stop()
print("ended", tracing.is_on())
"""
    assert run(program, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") == "ended False"


def test_both_programs_have_the_same_module() -> None:
    copies = [(ROOT / program / "tracing.py").read_text() for program in ("billing_service", "webhook_gateway")]
    assert copies[0] == copies[1]


def test_nothing_is_recorded_while_it_is_off() -> None:
    assert not tracing.is_on()
    with tracing.span("one") as span:
        assert not span.is_recording()
        assert (tracing.traceparent(), tracing.ids(), tracing.begin("two", root=True)) == (None, None, None)


def test_an_exception_is_named_by_its_type_and_never_by_its_text(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="hunter2"), tracing.span("one"):
        raise ValueError("hunter2")
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert "hunter2" not in span.to_json()
    assert not span.events


async def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("hunter2"), TimeoutError("hunter2"), asyncio.CancelledError("hunter2")])
async def test_a_wait_for_another_program_that_failed_or_was_given_up_is_marked_so(
    spans: InMemorySpanExporter, error: BaseException
) -> None:
    """The part itself says it, by the type and not by the text: the whole may yet end well."""
    answer: Awaitable[None] = raising(error)
    with tracing.span("whole"), pytest.raises(type(error)):
        await tracing.awaited("part", answer)
    part, whole = spans.get_finished_spans()
    assert (part.status.status_code, part.status.description) == (StatusCode.ERROR, type(error).__name__)
    assert "hunter2" not in part.to_json()
    assert whole.status.status_code is StatusCode.UNSET


async def test_a_wait_that_was_answered_is_not_marked(spans: InMemorySpanExporter) -> None:
    with tracing.span("whole"):
        assert await tracing.awaited("part", asyncio.sleep(0, "answer"), kind="read") == "answer"
    part, _ = spans.get_finished_spans()
    assert part.status.status_code is StatusCode.UNSET
    assert part.attributes == {"kind": "read"}


def test_a_part_is_recorded_only_within_something(spans: InMemorySpanExporter) -> None:
    """A statement of background work, which comes every second, is no trace of its own."""
    tracing.end(tracing.begin("alone"))
    assert not spans.get_finished_spans()
    with tracing.span("whole"):
        tracing.end(tracing.begin("part"))
    part, whole = spans.get_finished_spans()
    assert part.parent == whole.get_span_context()


def test_a_trace_goes_on_below_what_another_program_says(spans: InMemorySpanExporter) -> None:
    with tracing.span("one", parent=KEPT):
        assert tracing.is_in_this_trace(KEPT)
        assert tracing.ids() is not None
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (KEPT[3:35], KEPT[36:52])


def test_what_is_not_to_be_kept_is_not_kept_further_on(spans: InMemorySpanExporter) -> None:
    """The sampler's word at the beginning holds for all programs behind it."""
    with tracing.span("one", parent=NOT_KEPT):
        passed_on = tracing.traceparent()
        assert passed_on is not None
        assert not tracing.is_kept(passed_on)
        assert tracing.kept_traceparent() is None
        tracing.end(tracing.begin("part"))
    assert not spans.get_finished_spans()


@pytest.mark.parametrize(
    "words", ["", "hunter2", KEPT + "-more", "00-" + "0" * 32 + KEPT[35:], "ff" + KEPT[2:], KEPT.upper()]
)
def test_what_is_no_traceparent_is_disregarded(spans: InMemorySpanExporter, words: str) -> None:
    with tracing.span("one", parent=words, links=[words]):
        pass
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert not span.links
