"""`billing grants …`: what is given to customers by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from billing.admin.v1.grant_pb2 import (
    CreateGrantRequest,
    Grant,
    GrantedFeature,
    GrantedPlan,
    ListGrantsRequest,
    RevokeGrantRequest,
)
from billing.v1.entitlement_pb2 import Source
from billing.v1.plan_pb2 import FeatureValue
from rich.console import Group, RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.failures import UsageError
from billing_cli.options import Actor, AsJson, Because, CustomerId, Limit, Moment, RequestId, Yes, confirm, moment, more
from billing_cli.words import given, who

MAX_INTEGER: Final = 2**63 - 1

app: Final = typer.Typer(no_args_is_help=True, help="What is given to customers by hand.")

Plan = Annotated[str | None, typer.Option(metavar="PLAN", help="A plan of the catalog.")]
Quantity = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many of the plan.")]
Feature = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="One feature: true, false, a number, unlimited, or a text (text:… for one of these words).",
    ),
]
Start = Annotated[
    Moment | None,
    typer.Option("--from", parser=moment, metavar="TIME", help="When it begins; a span lies ahead. Otherwise now."),
]
End = Annotated[
    Moment | None,
    typer.Option(
        "--until", parser=moment, metavar="TIME", help="When it ends: a time, or a span as 30d. Otherwise never."
    ),
]


@app.command()
def give(
    context: typer.Context,
    customer_id: CustomerId,
    because: Because,
    actor: Actor,
    request_id: RequestId,
    plan: Plan = None,
    quantity: Quantity = 1,
    feature: Feature = None,
    start: Start = None,
    end: End = None,
    as_json: AsJson = False,
) -> None:
    """Give a plan or a feature, beside what the customer has."""
    request = _request(customer_id, plan, quantity, feature, start, end)
    request.mode = Grant.MODE_ADD
    request.request_id, request.actor, request.reason = request_id, actor, because
    _create(context.obj, request, as_json=as_json)


@app.command()
def override(
    context: typer.Context,
    customer_id: CustomerId,
    because: Because,
    actor: Actor,
    request_id: RequestId,
    plan: Plan = None,
    quantity: Quantity = 1,
    feature: Feature = None,
    start: Start = None,
    end: End = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give a plan or a feature instead of what the customer has of it, which may also be less."""
    request = _request(customer_id, plan, quantity, feature, start, end)
    request.mode = Grant.MODE_OVERRIDE
    request.request_id, request.actor, request.reason = request_id, actor, because
    what = f"each feature of {plan}" if plan else f"{feature}"
    confirm(f"Override {what} for {customer_id}? What they bought of it does not count while this lasts.", yes=yes)
    _create(context.obj, request, as_json=as_json)


@app.command()
def revoke(
    context: typer.Context,
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="grant_…, as the list has it.", show_default=False)],
    because: Because,
    actor: Actor,
    request_id: RequestId,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End a grant at once."""
    service: Service = context.obj
    confirm(f"Revoke {grant_id}? Its customer loses at once what it gives.", yes=yes)
    request = RevokeGrantRequest(request_id=request_id, actor=actor, reason=because, grant_id=grant_id)
    answer = service.change(service.admin.RevokeGrant, request)
    if as_json:
        screen.write([answer])
    else:
        grant = answer.grant
        screen.report(f"{grant.grant_id} of {grant.customer_id} is revoked. Their revision is {answer.revision}.")


@app.command("list")
def list_grants(
    context: typer.Context,
    customer: Annotated[str | None, typer.Option(metavar="CUSTOMER", help="Only of this customer.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that were revoked or have expired too.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List grants, the newest first."""
    service: Service = context.obj
    request = ListGrantsRequest(customer_id=customer, include_ended=every)
    grants, is_more = service.pages(service.admin.ListGrants, request, lambda answer: answer.grants, limit)
    if as_json:
        screen.write(grants)
    else:
        screen.show(_table(grants, datetime.now(UTC)) if grants else Text("Nothing was given by hand."))
    more(limit, is_more=is_more)


def _request(
    customer_id: str,
    plan: str | None,
    quantity: int,
    feature: str | None,
    start: Moment | None,
    end: Moment | None,
) -> CreateGrantRequest:
    """Put together what the options say.

    Raises:
        UsageError: they name both a plan and a feature, or neither.
    """
    if (plan is None) is (feature is None):
        raise UsageError("Give either --plan or --feature.")
    if feature is not None and quantity != 1:
        raise UsageError("--quantity goes with --plan.")
    now = datetime.now(UTC)
    return CreateGrantRequest(
        customer_id=customer_id,
        plan=None if plan is None else GrantedPlan(plan_key=plan, quantity=quantity),
        feature=None if feature is None else _feature(feature),
        start_time=start.after(now) if start else None,
        expire_time=end.after(now) if end else None,
    )


def _feature(text: str) -> GrantedFeature:
    """Understand KEY=VALUE.

    Raises:
        UsageError: it is not like that.
    """
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise UsageError(f"--feature: {text!r} is not KEY=VALUE, as projects=100")
    return GrantedFeature(feature_key=key, value=_value(value))


def _value(text: str) -> FeatureValue:
    if text in {"true", "false"}:
        return FeatureValue(bool_value=text == "true")
    if text == "unlimited":
        return FeatureValue(unlimited=True)
    if text.isascii() and text.isdecimal():
        if int(text[:20]) > MAX_INTEGER:
            raise UsageError(f"--feature: {text[:20]}… is larger than any number may be")
        return FeatureValue(integer_value=int(text))
    return FeatureValue(text_value=text.removeprefix("text:"))


def _create(service: Service, request: CreateGrantRequest, *, as_json: bool) -> None:
    answer = service.change(service.admin.CreateGrant, request)
    if as_json:
        screen.write([answer])
        return
    now = answer.grant.create_time.ToDatetime(UTC)
    said = Text(screen.plain(f"{answer.grant.customer_id} has it, by revision {answer.revision}."))
    screen.show(Group(said, _table([answer.grant], now)))


def _table(grants: Sequence[Grant], now: datetime) -> RenderableType:
    def row(one: Grant) -> tuple[RenderableType, ...]:
        state = screen.word(Source.State.Name(one.state), "STATE_")
        live = one.state in {Source.STATE_ACTIVE, Source.STATE_ENDING}
        ends = screen.age(one.revoke_time, now, "") or screen.age(one.expire_time, now, "never by itself")
        revoked = f"\nrevoked by {who(one.revoke_actor, one.revoke_identity)}: {one.revoke_reason}"
        why = f"{who(one.actor, one.identity)}: {one.reason}{revoked if one.revoke_actor else ''}"
        style = "green" if live else "dim"
        return one.grant_id, one.customer_id, given(one), Text(state, style=style), ends, why

    return screen.table(
        "grant", "customer", "gives", "is", "ends", "who and why", rows=map(row, grants), keep=["grant"]
    )
