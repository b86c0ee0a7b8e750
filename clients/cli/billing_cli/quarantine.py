"""`billing quarantine …`: events that could not be taken in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer
from billing.admin.v1 import event_pb2
from rich.console import RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.options import Actor, AsJson, Because, Limit, RequestId, more
from billing_cli.replaying import Because as ReplayBecause
from billing_cli.replaying import replay_reason

app: Final = typer.Typer(
    no_args_is_help=True,
    help="Events that could not be taken in; kept until the cause is mended, or somebody discards them.",
)


class Reason(StrEnum):
    """Why an event is in quarantine."""

    MALFORMED = "malformed"
    UNWRITABLE = "unwritable"
    IGNORED = "ignored"

    @property
    def number(self) -> event_pb2.QuarantinedEvent.Reason.ValueType:
        """Give the contract's value."""
        return event_pb2.QuarantinedEvent.Reason.Value(f"REASON_{self.name}")


@app.command("list")
def list_quarantine(
    context: typer.Context,
    reason: Annotated[Reason | None, typer.Option(help="Only for this reason.")] = None,
    discarded: Annotated[bool, typer.Option("--discarded", help="Those that were discarded too.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the events in quarantine, the last to come first. Changes nothing."""
    service: Service = context.obj
    request = event_pb2.ListQuarantinedEventsRequest(
        reason=reason.number if reason else event_pb2.QuarantinedEvent.REASON_UNSPECIFIED,
        include_discarded=discarded,
    )
    counts: dict[int, int] = {}

    def items(answer: event_pb2.ListQuarantinedEventsResponse) -> Sequence[event_pb2.QuarantinedEvent]:
        counts.update({one.reason: one.count for one in answer.counts})
        return answer.quarantined_events

    found, is_more = service.pages(service.admin.ListQuarantinedEvents, request, items, limit)
    if as_json:
        screen.write(found)
    else:
        now = datetime.now(UTC)
        screen.show(_table(found, now) if found else Text("Nothing is in quarantine.", style="green"))
        screen.say(f"In quarantine: {_counts(counts)}{', and what was discarded' if discarded else ''}.")
    more(limit, is_more=is_more)


@app.command()
def replay(
    context: typer.Context,
    reason: Annotated[Reason, typer.Option(help="All that are there for this reason.", show_default=False)],
    actor: Actor,
    request_id: RequestId,
    because: ReplayBecause = "billing quarantine replay",
    as_json: AsJson = False,
) -> None:
    """Take in again all that is there for a reason, after the cause was mended. One alone: `billing events replay`."""
    replay_reason(context.obj, reason.number, actor=actor, because=because, request_id=request_id, as_json=as_json)


@app.command()
def discard(
    context: typer.Context,
    event_key: Annotated[str, typer.Argument(metavar="EVENT", help="Its key, as the list has it.", show_default=False)],
    because: Because,
    actor: Actor,
    request_id: RequestId,
    as_json: AsJson = False,
) -> None:
    """Put an event aside that will never be understood: it counts no more. `billing events show` and `replay` go on with its key."""
    service: Service = context.obj
    request = event_pb2.DiscardQuarantinedEventRequest(
        request_id=request_id, actor=actor, reason=because, event_key=event_key
    )
    answer = service.change(service.admin.DiscardQuarantinedEvent, request)
    if as_json:
        screen.write([answer.quarantined_event])
    else:
        screen.report(f"The event {event_key} is discarded.")


def _table(found: Sequence[event_pb2.QuarantinedEvent], now: datetime) -> RenderableType:
    def row(one: event_pb2.QuarantinedEvent) -> tuple[RenderableType, ...]:
        reason = Text(_word(one.reason), style="bold yellow")
        if one.HasField("discard_time"):
            reason = Text(_word(one.reason), style="dim").append("\ndiscarded")
        return one.event_key, reason, one.detail, str(one.attempts), screen.age(one.update_time, now)

    return screen.table(
        "event", "reason", "what is wrong", "tries", "last failed", rows=map(row, found), keep=["reason", "last failed"]
    )


def _counts(counts: dict[int, int]) -> str:
    return ", ".join(f"{count} {_word(reason)}" for reason, count in counts.items() if count) or "nothing"


def _word(reason: int) -> str:
    return screen.word(event_pb2.QuarantinedEvent.Reason.Name(reason), "REASON_")  # type: ignore[arg-type]  # a number off the wire
