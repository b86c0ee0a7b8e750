"""`billing customer …`: what a customer has and why, how it came about, and what an operator may do to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from billing.admin.v1 import customer_pb2
from billing_client import BillingError

from billing_cli import customer_screen, history_screen, screen
from billing_cli.connection import Service
from billing_cli.options import Actor, AsJson, Because, CustomerId, Limit, RequestId, Yes, confirm, more

app: Final = typer.Typer(
    no_args_is_help=True, help="What a customer has and why, its history, and what to do about it."
)


@app.command()
def show(context: typer.Context, customer_id: CustomerId, as_json: AsJson = False) -> None:
    """Show all that is known of a customer: what they may use, why, until when, and what waits for a person."""
    service: Service = context.obj
    request = customer_pb2.GetCustomerRequest(customer_id=customer_id)
    answer = service.call(service.admin.GetCustomer, request)
    if as_json:
        screen.write([answer.customer])
    else:
        screen.show(customer_screen.shown(answer.customer))


@app.command()
def history(context: typer.Context, customer_id: CustomerId, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List how what a customer may use has changed, the newest first: when, by what, from what to what."""
    service: Service = context.obj
    request = customer_pb2.ListEntitlementChangesRequest(customer_id=customer_id)
    changes, is_more = service.pages(
        service.admin.ListEntitlementChanges, request, lambda answer: answer.changes, limit
    )
    if as_json:
        screen.write(changes)
    else:
        screen.show(history_screen.shown(customer_id, changes, datetime.now(UTC)))
    more(limit, is_more=is_more)


@app.command()
def link(
    context: typer.Context,
    customer_id: CustomerId,
    stripe_customer_id: Annotated[str, typer.Argument(metavar="CUS", help="Stripe's id, cus_….", show_default=False)],
    because: Because,
    actor: Actor,
    request_id: RequestId,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Also where it is bound to another customer, who loses what was bought under it."
        ),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bind a Stripe customer to a customer by hand; what was bought under it counts for them at once."""
    service: Service = context.obj
    loses = " Whoever it is bound to now loses what was bought under it." if replace else ""
    confirm(f"Bind {stripe_customer_id} to {customer_id}?{loses}", yes=yes)
    request = customer_pb2.LinkStripeCustomerRequest(
        request_id=request_id,
        actor=actor,
        reason=because,
        customer_id=customer_id,
        stripe_customer_id=stripe_customer_id,
        replace=replace,
    )
    try:
        answer = service.change(service.admin.LinkStripeCustomer, request)
    except BillingError as error:
        if error.reason == "BINDING_CONTRADICTED":
            error.add_note(_contradiction(error))
        raise
    if as_json:
        screen.write([answer])
        return
    was = f"; it was bound to {answer.replaced_customer_id}" if answer.replaced_customer_id else ""
    screen.report(f"{stripe_customer_id} is bound to {customer_id}{was}. Their revision is {answer.revision}.")


@app.command()
def erase(
    context: typer.Context,
    customer_id: CustomerId,
    because: Because,
    actor: Actor,
    request_id: RequestId,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Take a customer's personal data out. What was paid for, and the ids that the books need, stay. Again: how far it has come."""
    service: Service = context.obj
    confirm(f"Erase the personal data of {customer_id}? It cannot be brought back.", yes=yes)
    request = customer_pb2.EraseCustomerRequest(
        request_id=request_id, actor=actor, reason=because, customer_id=customer_id
    )
    answer = service.change(service.admin.EraseCustomer, request)
    if as_json:
        screen.write([answer.erasure])
    else:
        screen.show(customer_screen.erasure(answer.erasure, request_id, datetime.now(UTC)))


def _contradiction(error: BillingError) -> str:
    """Say who stands in the way, and what to do about it."""
    known = error.metadata
    if deployment := known.get("deployment"):
        return f"It belongs to the deployment {deployment}, and is never bound here."
    other = known.get("bound_customer_id") or known.get("claimed_customer_id")
    look = f"Look at `billing customer show {other}` first. " if other else ""
    return f"{look}--replace binds it all the same; whoever it was bound to loses what was bought under it."
