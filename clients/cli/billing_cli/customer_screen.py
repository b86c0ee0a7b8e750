"""How a customer is shown: what they may use first, then why, then what waits for a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from billing.admin.v1.customer_pb2 import Customer, Erasure, OpenIntent, StripeBinding
from billing.v1.entitlement_pb2 import Entitlement
from rich.console import Group, RenderableType
from rich.text import Text

from billing_cli import screen, source_screen
from billing_cli.finding_screen import findings_table
from billing_cli.words import feature_value, source_id


def shown(customer: Customer) -> RenderableType:
    """Give the whole screen. Distances are counted from the service's own clock, at which it answered."""
    held = customer.entitlements
    now = held.read_time.ToDatetime(UTC)
    return Group(
        _head(customer, now),
        screen.section("May use", _entitlements(customer, now), "The catalog has no features."),
        screen.section("Because of", source_screen.sources(customer, now), "Nothing, not even a default plan."),
        screen.section("Stripe customers", _bindings(customer, now), "None: never began to buy."),
        screen.section(
            "Not finished", _intents(customer, now), "Nothing: no page to pay on is open, no change under way."
        ),
        screen.section("Findings", findings_table(customer.findings, now), "None."),
    )


def _head(customer: Customer, now: datetime) -> RenderableType:
    held = customer.entitlements
    known = screen.moment(customer.create_time, now)
    plans = Text(
        screen.plain(", ".join(held.plan_keys) or "none"), style="bold green" if held.plan_keys else "bold yellow"
    )
    pairs: list[tuple[str, RenderableType]] = [
        ("customer", Text(screen.plain(customer.customer_id), style="bold")),
        ("plans", plans),
        ("revision", str(held.revision)),
        ("known since", known or Text("never heard of: has what everybody has", style="yellow")),
        ("erased", screen.moment(customer.erase_time, now)),
        ("changes next", screen.moment(held.next_change_time, now, "not by time")),
        (
            "findings",
            Text(f"{len(customer.findings)} open, see below", style="bold yellow") if customer.findings else "",
        ),
        ("as of", f"{now:%Y-%m-%d %H:%M:%S}Z, catalog {held.catalog_version[:12]}"),
    ]
    return screen.facts(pairs)


def _entitlements(customer: Customer, now: datetime) -> RenderableType | None:
    rows = [_entitlement(one, now) for one in customer.entitlements.entitlements]
    return screen.table("feature", "value", "given by", "until", rows=rows, keep=["feature", "value"]) if rows else None


def _entitlement(one: Entitlement, now: datetime) -> tuple[RenderableType, ...]:
    value = Text(screen.plain(feature_value(one.value)), style="bold" if _is_on(one) else "dim")
    return one.feature_key, value, _given_by(one), screen.moment(one.next_change_time, now, "–")


def _given_by(one: Entitlement) -> str:
    if not one.HasField("source"):
        return "–"
    name = source_id(one.source)
    return f"{one.source.plan_key} ({name})" if one.source.plan_key else name


def _is_on(one: Entitlement) -> bool:
    value = one.value
    return bool(value.bool_value or value.integer_value or value.unlimited or value.text_value)


def _bindings(customer: Customer, now: datetime) -> RenderableType | None:
    def row(one: StripeBinding) -> tuple[RenderableType, ...]:
        use = Text("buys with it", style="green") if one.current else Text("an old one", style="dim")
        return one.stripe_customer_id, use, screen.moment(one.bind_time, now)

    bindings = customer.stripe_bindings
    return screen.table("id", "use", "bound", rows=map(row, bindings), keep=["id"]) if bindings else None


def _intents(customer: Customer, now: datetime) -> RenderableType | None:
    def row(one: OpenIntent) -> tuple[RenderableType, ...]:
        what = f"buying {one.plan_key}" if one.kind == OpenIntent.KIND_CHECKOUT else one.operation.replace("_", " ")
        about = one.checkout_session_id or one.stripe_subscription_id or one.intent_id
        return what, one.state, about, screen.age(one.create_time, now), screen.age(one.expire_time, now)

    rows = map(row, customer.open_intents)
    return screen.table("what", "is", "id", "since", "until", rows=rows) if customer.open_intents else None


def erasure(erased: Erasure, request_id: str, now: datetime) -> RenderableType:
    """Give how far an erasure has come, and what it took out."""
    done = erased.state == Erasure.STATE_DONE
    state = (
        Text("done", style="bold green") if done else Text("under way; the service goes on by itself", style="yellow")
    )
    counts = [
        ("bodies of events emptied", erased.event_bodies),
        ("events in quarantine deleted", erased.quarantined_events),
        ("bodies of checkouts emptied", erased.checkout_bodies),
        ("body that made the Stripe customer", int(erased.stripe_customer_body)),
        ("reasons of grants and requests emptied", erased.reasons),
    ]
    pairs: Iterator[tuple[str, RenderableType]] = iter(
        [
            ("customer", erased.customer_id),
            ("state", state),
            ("asked for", screen.moment(erased.request_time, now)),
            ("done", screen.moment(erased.done_time, now)),
            *((name, str(count)) for name, count in counts),
            ("", "" if done else f"How far it has come: the same command with --request-id {request_id}"),
        ]
    )
    return screen.facts(pairs)
