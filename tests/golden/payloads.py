"""One payload of every handled type, in the shape of today and in that from before 2025-03-31.basil.

`objects/` holds one whole object of each kind in today's shape: every field that Stripe publishes for it, with values of our
own. An event is such an object with what makes its type, so that a field is written down once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

START = 1_790_000_000
MONTH = 30 * 86_400
NOW = START + 3_600
FOLDER = Path(__file__).with_name("objects")
VERSIONS = {"new": "2026-10-28.endive", "old": "2024-06-20"}

Object = dict[str, Any]


class Shape(StrEnum):
    """How a payload is written."""

    NEW = "new"
    OLD = "old"
    EXPANDED = "expanded"  # today's, with whole objects where ids may stand


@dataclass(frozen=True)
class Golden:
    """What makes a type, and what it does to the customer, who holds the plan Pro or an export pass."""

    kind: str
    changes: Mapping[str, Any] = field(default_factory=dict)


UNPAID = {"payment_status": "unpaid"}
PAID = {"status": "paid", "amount_paid": 2500, "amount_remaining": 0, "attempt_count": 1}
GOLDEN: Mapping[str, Golden] = {
    "checkout.session.completed": Golden("checkout.session"),
    "checkout.session.async_payment_succeeded": Golden("checkout.session"),
    "checkout.session.async_payment_failed": Golden("checkout.session", UNPAID),
    "checkout.session.expired": Golden("checkout.session", UNPAID | {"status": "expired", "payment_intent": None}),
    "customer.subscription.created": Golden("subscription"),
    "customer.subscription.updated": Golden("subscription"),
    "customer.subscription.deleted": Golden(
        "subscription", {"status": "canceled", "ended_at": NOW, "canceled_at": NOW}
    ),
    "customer.subscription.paused": Golden("subscription", {"status": "paused"}),
    "customer.subscription.resumed": Golden("subscription"),
    "customer.subscription.pending_update_applied": Golden("subscription"),
    "customer.subscription.pending_update_expired": Golden("subscription"),
    "customer.subscription.trial_will_end": Golden(
        "subscription", {"status": "trialing", "trial_start": START, "trial_end": START + MONTH}
    ),
    "customer.deleted": Golden("customer"),
    "invoice.paid": Golden("invoice", PAID),
    "invoice.payment_succeeded": Golden("invoice", PAID),
    "invoice.payment_failed": Golden("invoice"),
    "invoice.payment_action_required": Golden("invoice"),
    "invoice.voided": Golden("invoice", {"status": "void"}),
    "invoice.marked_uncollectible": Golden("invoice", {"status": "uncollectible"}),
    "invoice.finalization_failed": Golden("invoice", {"status": "draft", "attempt_count": 0, "attempted": False}),
    "invoice_payment.paid": Golden("invoice_payment"),
    "charge.refunded": Golden("charge", {"amount_refunded": 2500, "refunded": True}),
    "charge.refund.updated": Golden("refund"),
    "refund.created": Golden("refund"),
    "refund.updated": Golden("refund"),
    "refund.failed": Golden("refund", {"status": "failed"}),
    "charge.dispute.created": Golden("dispute"),
    "charge.dispute.updated": Golden("dispute", {"status": "under_review"}),
    "charge.dispute.closed": Golden("dispute", {"status": "lost"}),
}


def golden(kind: str, **changes: Any) -> Object:
    """Give one whole object of a kind in today's shape."""
    whole: Object = json.loads((FOLDER / f"{kind}.json").read_text())
    return whole | changes


def payload(event_type: str, shape: Shape, *, created: int = NOW, **changes: Any) -> bytes:
    """Give an event of a type, as an endpoint of that shape gets it."""
    made = GOLDEN[event_type]
    return event(event_type, golden(made.kind, **{**made.changes, **changes}), shape, created)


def event(event_type: str, whole: Object, shape: Shape, created: int) -> bytes:
    """Give an event about an object that is in today's shape."""
    envelope = {
        "id": f"evt_{shape}_{event_type.replace('.', '_')}_{created}",
        "object": "event",
        "api_version": VERSIONS["old" if shape is Shape.OLD else "new"],
        "created": created,
        "data": {"object": _SHAPES[shape](copy.deepcopy(whole))},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": event_type,
    }
    return json.dumps(envelope).encode()


def _old(whole: Object) -> Object:
    """Write an object as before basil: https://docs.stripe.com/changelog/basil."""
    match whole["object"]:
        case "subscription":
            period = {name: whole["items"]["data"][0][name] for name in ("current_period_start", "current_period_end")}
            for item in whole["items"]["data"]:
                for name in period:
                    del item[name]
            return whole | period
        case "invoice":
            details = whole.pop("parent")["subscription_details"]
            return whole | {
                "subscription": details["subscription"],
                "subscription_details": {"metadata": details["metadata"]},
                "payment_intent": "pi_invoice",
                "charge": "ch_invoice",
                "paid": whole["status"] == "paid",
            }
        case "charge":
            return whole | {"invoice": None}
    return whole


_REFERENCES = ("customer", "payment_intent", "charge", "latest_invoice", "invoice", "subscription")


def _expanded(whole: Object) -> Object:
    """Write whole objects where ids may stand: https://docs.stripe.com/expand."""
    for name in _REFERENCES:
        if isinstance(whole.get(name), str):
            whole[name] = {"id": whole[name], "object": name, "metadata": {}}
    details = (whole.get("parent") or {}).get("subscription_details")
    if details:
        details["subscription"] = {"id": details["subscription"], "object": "subscription"}
    return whole


_SHAPES = {Shape.NEW: lambda whole: whole, Shape.OLD: _old, Shape.EXPANDED: _expanded}
