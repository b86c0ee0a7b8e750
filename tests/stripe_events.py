"""Bodies of Stripe's events for tests, in the shapes of the published fixtures; every field that matters can be set."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

DEPLOYMENT = "default"
START = 1_790_000_000  # seconds since the epoch; every time of these tests stands near it
MONTH = 30 * 86_400
_numbers = itertools.count(1)


def event(event_type: str, data: dict[str, Any], *, created: int = START, event_id: str | None = None) -> bytes:
    """Give the body of one event."""
    envelope = {
        "id": event_id or f"evt_{next(_numbers):06}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": created,
        "livemode": False,
        "type": event_type,
        "data": {"object": data},
    }
    return json.dumps(envelope).encode()


def thin_event(event_type: str, object_id: str, *, created: int = START) -> bytes:
    """Give the body of the thin event of a type about an object: https://docs.stripe.com/event-destinations#thin-events."""
    envelope = {
        "id": f"evt_test_{next(_numbers):06}",
        "object": "v2.core.event",
        "type": f"v1.{event_type}",
        "created": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "livemode": False,
        "related_object": {"id": object_id, "type": "unused", "url": "/v1/unused"},
    }
    return json.dumps(envelope).encode()


def metadata(customer_id: str, **more: str) -> dict[str, str]:
    """Give the metadata that the service puts on what it makes for a customer."""
    return {"billing_deployment": DEPLOYMENT, "billing_customer_id": customer_id, **more}


def session(customer_id: str, *, mode: str = "subscription", plan: str = "pro", **more: Any) -> dict[str, Any]:
    """Give a completed and paid checkout session of a customer."""
    return {
        "id": f"cs_test_{customer_id}",
        "object": "checkout.session",
        "created": START,
        "customer": f"cus_{customer_id}",
        "mode": mode,
        "status": "complete",
        "payment_status": "paid",
        "subscription": f"sub_{customer_id}" if mode == "subscription" else None,
        "metadata": metadata(customer_id, billing_plan_key=plan, billing_price_key="monthly", billing_quantity="1"),
    } | more


def subscription(
    customer_id: str,
    status: str = "active",
    *,
    lookup_key: str = "pro_monthly",
    quantity: int = 1,
    start: int = START,
    **more: Any,
) -> dict[str, Any]:
    """Give a subscription of a customer with one item, its period on the item as since basil."""
    item = {
        "id": f"si_{customer_id}",
        "object": "subscription_item",
        "quantity": quantity,
        "current_period_start": start,
        "current_period_end": start + MONTH,
        "price": {"id": f"price_{lookup_key}", "object": "price", "lookup_key": lookup_key},
    }
    return {
        "id": f"sub_{customer_id}",
        "object": "subscription",
        "created": start,
        "start_date": start,
        "customer": f"cus_{customer_id}",
        "status": status,
        "items": {"object": "list", "data": [item], "has_more": False},
        "latest_invoice": f"in_{customer_id}",
        "cancel_at": None,
        "cancel_at_period_end": False,
        "ended_at": None,
        "trial_end": None,
        "metadata": metadata(customer_id),
    } | more


def invoice(customer_id: str, status: str = "paid", **more: Any) -> dict[str, Any]:
    """Give the first invoice of a customer's subscription, its subscription under `parent` as since basil."""
    details = {"subscription": f"sub_{customer_id}", "metadata": metadata(customer_id)}
    return {
        "id": f"in_{customer_id}",
        "object": "invoice",
        "created": START,
        "customer": f"cus_{customer_id}",
        "status": status,
        "billing_reason": "subscription_create",
        "parent": {"type": "subscription_details", "subscription_details": details},
        "status_transitions": {"finalized_at": START},
    } | more


def refund(customer_id: str, amount: int, status: str = "succeeded", *, number: int = 1) -> dict[str, Any]:
    """Give a refund; it names a payment intent, and no customer."""
    return {
        "id": f"re_{customer_id}_{number}",
        "object": "refund",
        "status": status,
        "amount": amount,
        "charge": f"ch_{customer_id}",
        "payment_intent": f"pi_{customer_id}",
    }


def dispute(customer_id: str, status: str = "needs_response") -> dict[str, Any]:
    """Give a dispute; it names a payment intent, and no customer."""
    return {
        "id": f"du_{customer_id}",
        "object": "dispute",
        "status": status,
        "amount": 2500,
        "charge": f"ch_{customer_id}",
        "payment_intent": f"pi_{customer_id}",
    }


def charge(customer_id: str, amount_refunded: int) -> dict[str, Any]:
    """Give a charge of 25.00."""
    return {
        "id": f"ch_{customer_id}",
        "object": "charge",
        "status": "succeeded",
        "customer": f"cus_{customer_id}",
        "amount": 2500,
        "amount_refunded": amount_refunded,
        "payment_intent": f"pi_{customer_id}",
    }


def invoice_payment(customer_id: str) -> dict[str, Any]:
    """Give what ties a payment intent to a subscription's invoice."""
    return {
        "id": f"inpay_{customer_id}",
        "object": "invoice_payment",
        "status": "paid",
        "invoice": f"in_{customer_id}",
        "payment": {"type": "payment_intent", "payment_intent": f"pi_{customer_id}"},
    }


def export_pass(customer_id: str, **more: Any) -> dict[str, Any]:
    """Give a completed session that sold an export pass for 25.00."""
    return session(
        customer_id, mode="payment", plan="export_pass", payment_intent=f"pi_{customer_id}", amount_total=2500, **more
    )


def purchase(customer_id: str, start: int = START) -> list[bytes]:
    """Give the events of one paid subscription checkout, all of the same second, in the order in which Stripe makes them."""
    return [
        event("customer.subscription.created", subscription(customer_id, "incomplete", start=start), created=start),
        event("invoice.paid", invoice(customer_id), created=start),
        event("customer.subscription.updated", subscription(customer_id, "active", start=start), created=start),
        event("checkout.session.completed", session(customer_id), created=start),
    ]
