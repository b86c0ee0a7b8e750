"""The spans of events on their way through `fulfill`: one for each event, in its own trace, and one for each batch.

A batch serves many events and so is in many traces' way. Its span is below the first event's and points to the others, and each of
these points to it: whichever webhook is followed, its trace shows when it was written, with what became of it, and a link leads to
the transaction. Where nobody traces, nothing here costs anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from billing_service import tracing
from billing_service.domain.observation import Event


class Settled(Protocol):
    """What became of an event."""

    @property
    def outcome(self) -> str:
        """One word for it."""


def begin(arrived: Sequence[Event | None], traceparents: Sequence[str]) -> list[tracing.Span | None]:
    """Begin the spans of events that arrived; `end` each when its result is there.

    An event of the trace that the call is in hangs below the call; any other in its own trace, where it has one.
    """
    spans = []
    parents = traceparents or [""] * len(arrived)
    for event, parent in zip(arrived, parents, strict=True):
        own = parent if parent and not tracing.is_in_this_trace(parent) else None
        about = {"billing.event.id": event.event_id, "billing.event.type": event.type} if event else {}
        spans.append(tracing.begin("fulfill event", parent=own, attributes=about))
    return spans


def end(span: tracing.Span, result: Settled | Exception) -> None:
    """End the span of an event with what became of it."""
    if isinstance(result, Exception):
        tracing.end(span, type(result).__name__)
    else:
        tracing.end(span, **{"billing.event.outcome": result.outcome})


def batch(spans: Sequence[tracing.Span | None]) -> AbstractContextManager[tracing.Span]:
    """Record the writing of a batch, and tie it to its events."""
    kept = [span for span in spans if span is not None and span.is_recording()]
    return _tied(kept, len(spans)) if kept else tracing.UNRECORDED


@contextmanager
def _tied(spans: Sequence[tracing.Span], events: int) -> Iterator[tracing.Span]:
    parents = [parent for span in spans if (parent := tracing.traceparent(span)) is not None]
    about = {"billing.events": events}
    with tracing.span("write batch", parent=parents[0], links=parents[1:], attributes=about) as written:
        for span in spans[1:]:
            tracing.link(span, written)
        yield written
