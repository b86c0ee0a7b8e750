"""`billing audit …`: what operators did, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer
from billing.admin.v1.operator_request_pb2 import ListOperatorRequestsRequest, OperatorRequest
from rich.console import RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.options import AsJson, Limit, When, more
from billing_cli.words import who

app: Final = typer.Typer(no_args_is_help=True, help="What operators did, and why.")


class Operation(StrEnum):
    """What was done."""

    CREATE_GRANT = "create_grant"
    REVOKE_GRANT = "revoke_grant"
    LINK_STRIPE_CUSTOMER = "link_stripe_customer"
    REPLAY_EVENTS = "replay_events"
    RECONCILE = "reconcile"
    CLOSE_FINDING = "close_finding"
    ERASE_CUSTOMER = "erase_customer"
    DISCARD_QUARANTINED_EVENT = "discard_quarantined_event"

    @property
    def number(self) -> OperatorRequest.Operation.ValueType:
        """Give the contract's value."""
        return OperatorRequest.Operation.Value(f"OPERATION_{self.name}")


@app.callback()
def audit() -> None:
    """What operators did, and why."""


@app.command("list")
def list_requests(
    context: typer.Context,
    customer: Annotated[str | None, typer.Option(metavar="CUSTOMER", help="Only about this customer.")] = None,
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Only by whom calls themselves this, in full.")
    ] = None,
    identity: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only by whom showed what the access file has under this name.")
    ] = None,
    operation: Annotated[Operation | None, typer.Option(help="Only of this kind.")] = None,
    since: When = None,
    until: When = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List what was done by `billing` and its like, the last first. What failed has left nothing."""
    service: Service = context.obj
    now = datetime.now(UTC)
    request = ListOperatorRequestsRequest(
        customer_id=customer,
        actor=actor,
        identity=identity,
        operation=operation.number if operation else OperatorRequest.OPERATION_UNSPECIFIED,
        start_time=since.before(now) if since else None,
        end_time=until.before(now) if until else None,
    )
    found, is_more = service.pages(
        service.admin.ListOperatorRequests, request, lambda answer: answer.operator_requests, limit
    )
    if as_json:
        screen.write(found)
    else:
        screen.show(requests_table(found, now) if found else Text("Nothing was done that is like that."))
    more(limit, is_more=is_more)


def requests_table(found: Sequence[OperatorRequest], now: datetime) -> RenderableType:
    """Give what was done as a table."""

    def row(one: OperatorRequest) -> tuple[RenderableType, ...]:
        what = Text(screen.word(OperatorRequest.Operation.Name(one.operation), "OPERATION_"))
        about = Text(screen.plain(subject(one)))
        return screen.age(one.create_time, now), what, about, who(one.actor, one.identity), one.reason or "–"

    return screen.table("when", "what", "about", "by", "because", rows=map(row, found), keep=["when", "what"])


def subject(one: OperatorRequest) -> str:
    """Say what it was about: the customer, and what of theirs."""
    keys = ("grant_id", "stripe_customer_id", "subject", "event_key")
    names = [str(one.result[key]) for key in keys if key in one.result]
    runs = [f"run {number.number_value:.0f}" for number in one.result.fields["run_ids"].list_value.values]
    became = one.result.fields["outcomes"].struct_value.fields  # of a replay
    counts = [f"{count.number_value:.0f} {outcome}" for outcome, count in sorted(became.items())]
    return "\n".join(part for part in (one.customer_id, *names, *runs, *counts) if part) or "–"
