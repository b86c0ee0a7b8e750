"""Traces, for OpenTelemetry: what a webhook or a call went through, in which program, and for how long.

Off, and then nothing of the SDK is even imported, unless OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
says where spans go; the other OTEL_* variables count as the standard has them.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/

Never in a span: a payload, a header, a secret, a customer, an e-mail address, or the text of an exception. What failed is named
by its type. The two programs have a copy each, since they share nothing but stubs.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, TypeVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

__all__ = ["Span", "SpanKind"]
_Value = TypeVar("_Value")
Attributes = Mapping[str, str | int | float | bool]

TRACEPARENT: Final = "traceparent"  # https://www.w3.org/TR/trace-context/
STOP_LIMIT_S: Final = 2.0  # for what was not sent yet; a collector that is away is not to hold up the stop
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
UNRECORDED: Final = nullcontext(trace.INVALID_SPAN)

_tracer: Tracer | None = None


def start(program: str) -> bool:
    """Begin to trace where the environment says where to; say whether it does."""
    global _tracer  # noqa: PLW0603 - one process, one tracer; a hook in the hot path is then one comparison
    wanted = any(os.environ.get(name) for name in _ENDPOINTS)
    if not wanted or os.environ.get("OTEL_TRACES_EXPORTER") == "none" or _is_disabled():
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see the top
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    name = os.environ.get("OTEL_SERVICE_NAME") or program
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # a bounded queue, in a thread of its own
    trace.set_tracer_provider(provider)
    _tracer = provider.get_tracer(program)
    return True


def stop() -> None:
    """Send what was not sent yet, for `STOP_LIMIT_S` at most; nothing is traced any more."""
    global _tracer  # noqa: PLW0603 - as in `start`
    if _tracer is None:
        return
    _tracer = None
    provider = trace.get_tracer_provider()
    ending = threading.Thread(target=getattr(provider, "shutdown"), daemon=True)  # noqa: B009 - the SDK's, which the API does not know
    ending.start()
    ending.join(STOP_LIMIT_S)


def is_on() -> bool:
    """Say whether spans are made at all."""
    return _tracer is not None


def is_recording() -> bool:
    """Say whether a part of the span that this task is in would be kept: what costs something is asked for only then."""
    return _tracer is not None and trace.get_current_span().is_recording()


def ids() -> tuple[str, str] | None:
    """Give the trace and the span that this task is in, as the log shows them; None outside of any."""
    if _tracer is None:
        return None
    found = trace.get_current_span().get_span_context()
    return (f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


def traceparent(of: Span | None = None) -> str | None:
    """Give what tells another program of a span, or of the one that this task is in, and whether it is kept; None without any."""
    if _tracer is None:
        return None
    found = (of or trace.get_current_span()).get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else None


def kept_traceparent() -> str | None:
    """Give the same of the span that this task is in, where it is kept."""
    found = traceparent()
    return found if found is not None and is_kept(found) else None


def is_kept(parent: str) -> bool:
    """Say whether what a traceparent names was chosen to be kept (sampled), and so what is below it."""
    known = _read(parent)
    return known is not None and known.trace_flags.sampled


def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    parent: str | None = None,
    links: Iterable[str] = (),
    attributes: Attributes | None = None,
) -> AbstractContextManager[Span]:
    """Record what happens inside, below the span of this task or below `parent`; `links` and `parent` as `traceparent` gives them."""
    if _tracer is None:
        return UNRECORDED
    return _recorded(_tracer.start_span(name, _below(parent), kind, attributes, _links(links)))


def begin(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    parent: str | None = None,
    root: bool = False,
    attributes: Attributes | None = None,
) -> Span | None:
    """Begin a part of the span that this task is in, or of `parent`; `end` ends it.

    None where there is neither: unless it is a `root`, it is nothing by itself.
    """
    if _tracer is None:
        return None
    if parent is None and not root and not trace.get_current_span().is_recording():
        return None
    return _tracer.start_span(name, _below(parent), kind, attributes)


def end(begun: Span | None, failed: str | None = None, **attributes: str | float | bool) -> None:
    """End what `begin` gave; with a word for why where it failed."""
    if begun is None:
        return
    for name, value in attributes.items():
        begun.set_attribute(name, value)
    if failed is not None:
        fail(begun, failed)
    begun.end()


async def awaited(name: str, answer: Awaitable[_Value], **attributes: str | float | bool) -> _Value:
    """Wait for an answer of another program, as a part of the span that this task is in."""
    begun = begin(name, SpanKind.CLIENT, attributes=attributes)
    failed: str | None = None
    try:
        return await answer
    except BaseException as error:  # a wait that was given up too: it is what a caller's deadline looks like from here
        failed = type(error).__name__
        raise
    finally:
        end(begun, failed)


def fail(failed: Span, what: str) -> None:
    """Mark a span as failed, with a word for why: never with the text of an exception."""
    failed.set_attribute("error.type", what)
    failed.set_status(Status(StatusCode.ERROR, what))


def link(one: Span, other: Span) -> None:
    """Let a span that has begun point to another."""
    one.add_link(other.get_span_context())


def enter(begun: Span | None) -> None:
    """Make a span the one that this task is in, to the end of the task."""
    if begun is not None:
        contexts.attach(trace.set_span_in_context(begun))


def is_in_this_trace(parent: str) -> bool:
    """Say whether a traceparent is of the trace that this task is in."""
    known, current = _read(parent), trace.get_current_span().get_span_context()
    return known is not None and current.is_valid and known.trace_id == current.trace_id


@contextmanager
def _recorded(begun: Span) -> Iterator[Span]:
    with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield begun
        except BaseException as error:
            fail(begun, type(error).__name__)
            raise


def _is_disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _below(parent: str | None) -> Context | None:
    """Give the context of a span that is another program's, or was another task's; None where it is none."""
    known = None if parent is None else _read(parent)
    return None if known is None else trace.set_span_in_context(NonRecordingSpan(known))


def _links(parents: Iterable[str]) -> list[Link]:
    return [Link(known) for parent in parents if (known := _read(parent)) is not None]


def _read(parent: str) -> SpanContext | None:
    match = _TRACEPARENT.fullmatch(parent)
    if match is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16)))
