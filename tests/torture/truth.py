"""What a customer must be entitled to: the stand-in's final objects, through the domain's own pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.facts import gather
from billing_service.domain.merge import ObjectState, Read
from billing_service.domain.observation import Fact, observe
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import ObjectKind

_KINDS = {
    "customers": ObjectKind.CUSTOMER,
    "checkout_sessions": ObjectKind.CHECKOUT_SESSION,
    "subscriptions": ObjectKind.SUBSCRIPTION,
    "invoices": ObjectKind.INVOICE,
    "invoice_payments": ObjectKind.INVOICE_PAYMENT,
    "charges": ObjectKind.CHARGE,
    "refunds": ObjectKind.REFUND,
    "disputes": ObjectKind.DISPUTE,
}
_FACTS = {"failed_at": Fact.PAYMENT_FAILED, "paid_at": Fact.PAID}  # what only events say


def entitlements_of(customer_id: str, truth: Mapping[str, Any], plans: PlanIndex, now: datetime) -> Entitlements:
    """Work out what a customer must be entitled to at `now`, from what /_control/truth holds of him."""
    given = accesses(gather(_states(truth)), plans.of_price, plans.of_key)
    return fold(customer_id, 0, given, plans.catalog, now)


def _states(truth: Mapping[str, Any]) -> Iterator[ObjectState]:
    notes = truth.get("notes", {})
    for name, kind in _KINDS.items():
        for obj in truth.get(name, ()):
            seen = observe(obj, kind)
            said = notes.get(seen.object_id, {})
            yield ObjectState(
                object_id=seen.object_id,
                kind=kind,
                stripe_customer_id=seen.stripe_customer_id,
                payload=None,
                read=Read(fence=1, request_time=0, read_time=0, view=seen.view),
                facts={fact: said[note] for note, fact in _FACTS.items() if note in said},
                overdue=said.get("overdue"),
            )
