"""`billing checkout …`: what became of one page to pay on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from billing.admin.v1.event_pb2 import Event, ListEventsRequest
from billing.v1.checkout_pb2 import CheckoutSession, GetCheckoutSessionRequest
from rich.console import Group, RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import PUBLIC_TARGET, Service
from billing_cli.events import events_table
from billing_cli.options import AsJson

EVENTS: Final = 50  # of one session there are a handful

app: Final = typer.Typer(no_args_is_help=True, help="What became of a page to pay on.")


@app.callback()
def checkout() -> None:
    """What became of a page to pay on."""


@app.command()
def show(
    context: typer.Context,
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="Stripe's id, cs_….", show_default=False)],
    public_target: Annotated[
        str,
        typer.Option(envvar="BILLING_ADMIN_PUBLIC_TARGET", help="The service's public listener, which knows sessions."),
    ] = PUBLIC_TARGET,
    caller_token_file: Annotated[
        Path | None,
        typer.Option(envvar="BILLING_ADMIN_CALLER_TOKEN_FILE", help="A file with a token of the role caller, for it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where an attempt to buy stands, and what Stripe has said of it.

    Sessions are asked for as your backends do, so that this takes a credential of theirs beside the operator's.
    """
    service: Service = context.obj
    caller = Service(replace(service.connection, target=public_target, token_file=caller_token_file))
    context.call_on_close(caller.close)
    request = GetCheckoutSessionRequest(checkout_session_id=session_id)
    session = caller.call(caller.billing.GetCheckoutSession, request).checkout_session
    about = ListEventsRequest(object_id=session_id)
    events, _ = service.pages(service.admin.ListEvents, about, lambda answer: answer.events, EVENTS)
    session.ClearField("url")  # whoever has it can pay with it
    if as_json:
        screen.write_object(
            {"checkout_session": screen.document(session), "events": [screen.document(one) for one in events]}
        )
    else:
        screen.show(_shown(session, events, datetime.now(UTC)))


def _shown(session: CheckoutSession, events: list[Event], now: datetime) -> RenderableType:
    state = screen.word(CheckoutSession.State.Name(session.state), "STATE_")
    good = session.state in {CheckoutSession.STATE_COMPLETE, CheckoutSession.STATE_OPEN}
    pairs: list[tuple[str, RenderableType]] = [
        ("session", Text(screen.plain(session.checkout_session_id), style="bold")),
        ("is", Text(state, style="bold green" if good else "bold yellow")),
        ("customer", session.customer_id),
        ("buys", f"{session.plan_key}, {session.price_key} × {session.quantity}"),
        ("asked for", screen.moment(session.create_time, now)),
        ("payable until", screen.moment(session.expire_time, now)),
    ]
    heard = events_table(events, now) if events else None
    return Group(
        screen.facts(pairs),
        screen.section("Heard from Stripe", heard, "Nothing yet: nobody paid, or its webhook is late."),
    )
