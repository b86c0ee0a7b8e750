"""Thin events: https://docs.stripe.com/event-destinations#thin-events. They name an object and carry nothing of it."""

from __future__ import annotations

from datetime import UTC, datetime

from sandbox.stripe.identifiers import random_text
from sandbox.stripe.objects import Object

_PATHS = {
    "checkout.session": "/v1/checkout/sessions",
    "subscription": "/v1/subscriptions",
    "invoice": "/v1/invoices",
    "customer": "/v1/customers",
    "charge": "/v1/charges",
    "refund": "/v1/refunds",
    "dispute": "/v1/disputes",
    "payment_intent": "/v1/payment_intents",
}


def thin_twin(event: Object) -> Object | None:
    """Write the thin event of the same fact; None where the stand-in cannot say where its object is."""
    obj = event["data"]["object"]
    path = _PATHS.get(obj["object"])
    if path is None:
        return None
    return {
        "id": f"evt_test_65{random_text(30)}",
        "object": "v2.core.event",
        "type": f"v1.{event['type']}",
        "created": datetime.fromtimestamp(event["created"], UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "livemode": False,
        "related_object": {"id": obj["id"], "type": obj["object"], "url": f"{path}/{obj['id']}"},
    }
