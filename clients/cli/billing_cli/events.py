"""`billing events …`: what Stripe sent, and what became of it."""

from __future__ import annotations

import sys
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
from billing_cli.options import Actor, AsJson, Limit, RequestId, When, more
from billing_cli.replaying import Because, replay_one

app: Final = typer.Typer(no_args_is_help=True, help="What Stripe sent, and what became of it.")


class Outcome(StrEnum):
    """What became of an event when it was recorded."""

    APPLIED = "applied"
    IGNORED = "ignored"
    NOT_OURS = "not_ours"

    @property
    def number(self) -> event_pb2.Event.Outcome.ValueType:
        """Give the contract's value."""
        return event_pb2.Event.Outcome.Value(f"OUTCOME_{self.name}")


@app.command("list")
def list_events(
    context: typer.Context,
    customer: Annotated[str | None, typer.Option(metavar="CUSTOMER", help="Only about this customer.")] = None,
    event_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only of this type, as invoice.paid.")
    ] = None,
    about: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="Only about this object of Stripe's, as sub_….")
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only those of which this became.")] = None,
    since: When = None,
    until: When = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List recorded events, the last received first. Those in quarantine are in `billing quarantine list`."""
    service: Service = context.obj
    now = datetime.now(UTC)
    request = event_pb2.ListEventsRequest(
        customer_id=customer,
        type=event_type,
        object_id=about,
        outcome=outcome.number if outcome else event_pb2.Event.OUTCOME_UNSPECIFIED,
        start_time=since.before(now) if since else None,
        end_time=until.before(now) if until else None,
    )
    events, is_more = service.pages(service.admin.ListEvents, request, lambda answer: answer.events, limit)
    if as_json:
        screen.write(events)
    else:
        screen.show(events_table(events, now) if events else Text("No event is like that."))
    more(limit, is_more=is_more)


@app.command()
def show(
    context: typer.Context,
    event_id: Annotated[
        str, typer.Argument(metavar="EVENT", help="evt_…, or the key of one in quarantine.", show_default=False)
    ],
    body: Annotated[bool, typer.Option("--body", help="Its bytes and nothing else. They hold personal data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one event, recorded or in quarantine; its body only where that is asked for."""
    service: Service = context.obj
    answer = service.call(service.admin.GetEvent, event_pb2.GetEventRequest(event_id=event_id))
    if body and not as_json:
        _write_body(answer.body)
        return
    if not body:
        answer.ClearField("body")
    if as_json:
        screen.write([answer])
    else:
        screen.show(_event(answer, datetime.now(UTC)))


@app.command()
def replay(
    context: typer.Context,
    event_key: Annotated[
        str, typer.Argument(metavar="EVENT", help="Its key, as the quarantine's list has it.", show_default=False)
    ],
    actor: Actor,
    request_id: RequestId,
    because: Because = "billing events replay",
    as_json: AsJson = False,
) -> None:
    """Take one event out of quarantine in again, after the cause was mended."""
    replay_one(context.obj, event_key, actor=actor, because=because, request_id=request_id, as_json=as_json)


def events_table(events: Sequence[event_pb2.Event], now: datetime) -> RenderableType:
    """Give events as a table."""

    def row(one: event_pb2.Event) -> tuple[RenderableType, ...]:
        about = Text(screen.plain(one.type)).append(screen.plain(f"\n{one.object_id}"), style="dim")
        return one.event_id, about, _outcome(one), screen.age(one.receive_time, now)

    columns = ("event", "type and object", "became", "received")
    return screen.table(*columns, rows=map(row, events), keep=["event", "became", "received"])


def _outcome(event: event_pb2.Event) -> Text:
    word = screen.word(event_pb2.Event.Outcome.Name(event.outcome), "OUTCOME_")
    return Text(word, style="green" if event.outcome == event_pb2.Event.OUTCOME_APPLIED else "dim")


def _event(answer: event_pb2.GetEventResponse, now: datetime) -> RenderableType:
    if answer.WhichOneof("found") == "quarantined_event":
        return _quarantined(answer.quarantined_event, now)
    event = answer.event
    kept = (
        f"{event.body_bytes} bytes; --body shows them"
        if event.body_bytes
        else "taken out, by age or because it was asked for"
    )
    return screen.facts(
        [
            ("event", Text(screen.plain(event.event_id), style="bold")),
            ("type", event.type),
            ("became", _outcome(event)),
            ("object", event.object_id),
            ("made", screen.moment(event.event_create_time, now)),
            ("received", screen.moment(event.receive_time, now)),
            ("mode", "live" if event.livemode else "test"),
            ("API version", event.api_version),
            ("body", kept),
        ]
    )


def _quarantined(event: event_pb2.QuarantinedEvent, now: datetime) -> RenderableType:
    reason = screen.word(event_pb2.QuarantinedEvent.Reason.Name(event.reason), "REASON_")
    discarded = screen.moment(event.discard_time, now)
    standing = (
        Text(f"discarded: {reason}", style="dim") if discarded else Text(f"in quarantine: {reason}", style="bold red")
    )
    return screen.facts(
        [
            ("event", Text(screen.plain(event.event_key), style="bold")),
            ("is", standing),
            ("because", event.detail),
            ("attempts", str(event.attempts)),
            ("first failed", screen.moment(event.create_time, now)),
            ("last failed", screen.moment(event.update_time, now)),
            ("discarded", discarded),
        ]
    )


def _write_body(body: bytes) -> None:
    """Write the bytes as they are for a program; a terminal is not to obey them."""
    if sys.stdout.isatty():
        screen.report(body.decode(errors="replace"))
    else:
        sys.stdout.buffer.write(body)
