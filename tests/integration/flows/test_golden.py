"""Each handled type has its effect end to end, in every shape."""

from __future__ import annotations

import pytest

from billing_service.domain.observation import HANDLED_TYPES
from tests.golden.payloads import NOW, START, Shape, event, golden, payload
from tests.integration.flows.conftest import Service

PURCHASE = frozenset({"checkout.session", "refund", "dispute", "charge"})
SETUP_PAID = {"status": "paid", "amount_paid": 2500, "billing_reason": "subscription_create"}
# What the customer's source is after the event, where it was active before: of the subscription, or of the purchase.
EXPECTED = {
    "checkout.session.completed": "ending",  # an export pass, for a duration
    "checkout.session.async_payment_succeeded": "ending",
    "checkout.session.async_payment_failed": None,
    "checkout.session.expired": None,
    "customer.subscription.deleted": "ended",
    "customer.subscription.paused": "paused",
    "customer.subscription.trial_will_end": "trialing",
    "customer.deleted": "ended",
    "invoice.payment_failed": "active",  # the status still says so; past_due comes with the subscription's own event
    "invoice.voided": "active",
    "invoice.marked_uncollectible": "grace",
    "charge.refunded": "refunded",
    "charge.refund.updated": "refunded",
    "refund.created": "refunded",
    "refund.updated": "refunded",
    "refund.failed": "ending",
    "charge.dispute.created": "disputed",
    "charge.dispute.updated": "disputed",
    "charge.dispute.closed": "disputed",
}

GIVEN_UP = "invoice.marked_uncollectible"  # after its payment failed


def before(event_type: str, shape: Shape) -> list[bytes]:
    """Give what came before: the purchase that a refund or dispute is of, or the subscription and its paid first invoice."""
    kind = HANDLED_TYPES[event_type].value
    if kind == "checkout.session":
        return []
    if kind in PURCHASE:
        return [payload("checkout.session.completed", shape, created=START)]
    first = golden("invoice", id="in_first", **SETUP_PAID)
    created = golden("subscription", latest_invoice="in_first")
    return [
        event("customer.subscription.created", created, shape, START),
        event("invoice.paid", first, shape, START + 1),
        event("customer.subscription.updated", golden("subscription"), shape, START + 2),
        *([payload("invoice.paid", shape, created=START + 3)] if kind == "invoice_payment" else []),
        *([payload("invoice.payment_failed", shape, created=START + 3)] if event_type == GIVEN_UP else []),
    ]


@pytest.mark.parametrize("shape", sorted(Shape))
@pytest.mark.parametrize("event_type", sorted(HANDLED_TYPES))
async def test_a_handled_type_has_its_effect(service: Service, event_type: str, shape: Shape) -> None:
    outcomes = await service.outcomes(*before(event_type, shape), payload(event_type, shape, created=NOW))
    assert outcomes[-1] == "applied"
    states = {source.state.value for source in (await service.read("golden")).sources if source.stripe_id}
    expected = EXPECTED.get(event_type, "active")
    assert states == ({expected} if expected else set())
