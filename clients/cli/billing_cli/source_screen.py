"""How the sources of a customer are shown, each with its whole why: its facts, what the table of access says, and the policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from billing.admin.v1.customer_pb2 import (
    Customer,
    DisputeStanding,
    Policy,
    PurchaseFacts,
    Ruling,
    SourceExplanation,
    SubscriptionItemFacts,
)
from billing.admin.v1.grant_pb2 import Grant
from billing.v1.entitlement_pb2 import Source
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from billing_cli import screen
from billing_cli.words import duration, given, source_id, who

Fact = tuple[str, RenderableType]

_LIVE: Final = frozenset({Source.STATE_ACTIVE, Source.STATE_TRIALING, Source.STATE_ENDING})
_STYLES: Final[Mapping[int, str]] = {
    **dict.fromkeys(_LIVE, "bold green"),
    Source.STATE_GRACE: "bold yellow",
    Source.STATE_SCHEDULED: "cyan",
    Source.STATE_PENDING_PAYMENT: "yellow",
    Source.STATE_ENDED: "dim",
}
_RULINGS: Final[Mapping[int, str]] = {
    Ruling.RULING_PERIOD: "access until the item's period ends",
    Ruling.RULING_TRIAL: "access until the trial ends",
    Ruling.RULING_GRACE: "access for the plan's grace, from the first failure on",
    Ruling.RULING_POLICY: "access only if the plan gives it before the payment has settled",
    Ruling.RULING_PENDING: "no access: the first payment is awaited",
    Ruling.RULING_OVERDUE: "no access: unpaid",
    Ruling.RULING_PAUSED: "no access: paused",
    Ruling.RULING_ENDED: "no access: over",
}


def sources(customer: Customer, now: datetime) -> RenderableType | None:
    """Give every source, the live ones first."""
    explained = {source_id(one.source): one for one in customer.explanations}
    ordered = sorted(customer.entitlements.sources, key=lambda one: one.state not in _LIVE | {Source.STATE_GRACE})
    if not ordered:
        return None
    shown = [_source(one, explained.get(source_id(one)), now) for one in ordered]
    return Group(shown[0], *(part for one in shown[1:] for part in (Text(), one)))


def _source(source: Source, explanation: SourceExplanation | None, now: datetime) -> RenderableType:
    state = screen.word(Source.State.Name(source.state), "STATE_")
    kind = screen.word(Source.Type.Name(source.type), "TYPE_")
    title = Text(screen.plain(source_id(source)), style="bold")
    title.append("  ").append(state, style=_STYLES.get(source.state, "bold red"))
    if source.type != Source.TYPE_DEFAULT_PLAN:
        quantity = f"{source.plan_key} × {source.quantity}" if source.plan_key else kind
        title.append(screen.plain(f"  {quantity}" if source.plan_key else ""))
        title.append(f"  {kind}", style="dim")
    else:
        title.append(screen.plain(f"  {source.plan_key}"))
    facts = [("access", _access(source, now)), *(_why(explanation, now) if explanation else ())]
    inner = (
        screen.facts(facts) if source.type != Source.TYPE_DEFAULT_PLAN else Text("what every customer has", style="dim")
    )
    return Group(title, Padding(inner, (0, 0, 0, 2), expand=False))


def _access(source: Source, now: datetime) -> str:
    until = screen.moment(source.end_time, now, "open-ended")
    began = screen.moment(source.start_time, now)
    return f"{began} → {until}" if began else until


def _why(one: SourceExplanation, now: datetime) -> Iterator[Fact]:
    kind = one.WhichOneof("facts")
    if kind == "subscription_item":
        yield from _subscription(one.subscription_item, now)
    elif kind == "purchase":
        yield from _purchase(one.purchase, now)
    elif kind == "grant":
        yield from grant_facts(one.grant, now)
    if one.ruling:
        yield "ruling", _RULINGS.get(one.ruling, Ruling.Name(one.ruling))
    if one.HasField("policy") and one.source.state != Source.STATE_ENDED:
        yield "policy", _policy(one.policy)


def _subscription(facts: SubscriptionItemFacts, now: datetime) -> Iterator[Fact]:
    yield "subscription", f"{facts.stripe_subscription_id}, {facts.status.replace('_', ' ')} at Stripe"
    price = f"{facts.stripe_price_id} ({facts.lookup_key})" if facts.lookup_key else facts.stripe_price_id
    yield "price", f"{price} × {facts.quantity}"
    yield "period", f"{_time(facts.period_start_time, now)} → {_time(facts.period_end_time, now)}"
    yield "latest invoice", _invoice(facts)
    yield "first failure", screen.moment(facts.first_failure_time, now)
    yield "unpaid since", screen.moment(facts.due_time, now)
    yield "trial", screen.moment(facts.trial_end_time, now)
    yield "cancels", "at the period's end" if facts.cancel_at_period_end else screen.moment(facts.cancel_time, now)
    yield "ended", screen.moment(facts.ended_time, now)
    yield "collection", "paused" if facts.collection_paused else ""
    yield from _trouble(facts.dispute, deleted=facts.stripe_customer_deleted)


def _invoice(facts: SubscriptionItemFacts) -> str:
    first = ", nothing was paid yet" if facts.first_payment else ""
    if not facts.latest_invoice_known:
        return f"named, and not heard of yet{first}"
    return f"{facts.latest_invoice_status or 'none'}{first}"


def _purchase(facts: PurchaseFacts, now: datetime) -> Iterator[Fact]:
    yield "session", f"made {_time(facts.session_create_time, now)}"
    yield "paid", screen.moment(facts.paid_time, now, "the payment is on its way")
    if facts.refunded_amount_minor:
        whole = "all of it" if facts.fully_refunded else "a part"
        yield "refunded", f"{facts.refunded_amount_minor} (in the smallest unit), {whole}"
    yield from _trouble(facts.dispute, deleted=facts.stripe_customer_deleted)


def _trouble(dispute: DisputeStanding.ValueType, *, deleted: bool) -> Iterator[Fact]:
    if dispute:
        yield "dispute", Text(screen.word(DisputeStanding.Name(dispute), "DISPUTE_STANDING_"), style="bold red")
    if deleted:
        yield "Stripe customer", Text("deleted at Stripe", style="bold red")


def grant_facts(grant: Grant, now: datetime) -> Iterator[Fact]:
    """Give who gave what, and why."""
    yield "gives", given(grant)
    yield (
        "mode",
        "instead of what else they have" if grant.mode == Grant.MODE_OVERRIDE else "beside what else they have",
    )
    yield "given", f"{screen.moment(grant.create_time, now)} by {who(grant.actor, grant.identity)}"
    yield "because", grant.reason
    if grant.HasField("revoke_time"):
        by = who(grant.revoke_actor, grant.revoke_identity)
        yield "revoked", f"{screen.moment(grant.revoke_time, now)} by {by}: {grant.revoke_reason}"


def _policy(policy: Policy) -> str:
    switches = {
        "access before settled": policy.access_before_settled,
        "access while paused": policy.access_while_paused,
        "access while collection paused": policy.access_while_collection_paused,
        "partial refund revokes": policy.partial_refund_revokes,
        "open dispute suspends": policy.open_dispute_suspends,
        "lost dispute revokes": policy.lost_dispute_revokes,
    }
    spans = f"grace {duration(policy.past_due_grace)}, leeway {duration(policy.period_end_leeway)}"
    return "; ".join([spans, *(f"{name}: {'yes' if on else 'no'}" for name, on in switches.items())])


def _time(time: Timestamp, now: datetime) -> str:
    return screen.moment(time, now, "not known")
