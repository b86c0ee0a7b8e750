"""Events as an endpoint gets them whose API version is older than 2025-03-31.basil.

https://docs.stripe.com/changelog/basil: periods stood on the subscription, and an invoice named its subscription, payment
intent and charge itself.
"""

from __future__ import annotations

import copy

from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.store import Store

VERSION = "2024-06-20"
_PERIOD = ("current_period_start", "current_period_end")


def knows(event: Object) -> bool:
    """Tell whether the old version has such an event at all."""
    return not str(event["type"]).startswith("invoice_payment.")


def rendered(event: Object, store: Store) -> Object:
    """Render an event in the old version."""
    old = copy.deepcopy(event)
    data = old["data"]
    data["object"] = _object(data["object"], store)
    if "previous_attributes" in data and data["object"]["object"] == Kind.SUBSCRIPTION:
        data["previous_attributes"] = _lifted(data["previous_attributes"])
    return {**old, "api_version": VERSION}


def _object(obj: Object, store: Store) -> Object:
    match obj["object"]:
        case Kind.SUBSCRIPTION:
            return _lifted(obj)
        case Kind.INVOICE:
            return _invoice(obj, store)
        case Kind.CHARGE:
            return {**obj, "invoice": _invoice_of(obj["payment_intent"], store)}
        case Kind.PAYMENT_INTENT:
            return {**obj, "invoice": _invoice_of(obj["id"], store)}
    return obj


def _lifted(subscription: Object) -> Object:
    """Move the items' periods to the subscription, which had one for all of them."""
    items = subscription.get("items", {}).get("data")
    if not items:
        return subscription
    period = {name: items[0][name] for name in _PERIOD if name in items[0]}
    for item in items:
        for name in _PERIOD:
            item.pop(name, None)
    return {**subscription, **period}


def _invoice(invoice: Object, store: Store) -> Object:
    old = {key: value for key, value in invoice.items() if key != "parent"}
    details = (invoice["parent"] or {}).get("subscription_details") or {}
    payment = store.get(Kind.INVOICE_PAYMENT, (store.get(Kind.INVOICE, invoice["id"]) or {}).get("_payment", ""))
    intent = store.get(Kind.PAYMENT_INTENT, payment["payment"]["payment_intent"]) if payment else None
    return {
        **old,
        "charge": intent["latest_charge"] if intent else None,
        "paid": invoice["status"] == "paid",
        "payment_intent": intent["id"] if intent else None,
        "subscription": details.get("subscription"),
        "subscription_details": {"metadata": details.get("metadata")},
    }


def _invoice_of(payment_intent_id: str, store: Store) -> str | None:
    intent = store.get(Kind.PAYMENT_INTENT, payment_intent_id)
    return intent.get("_invoice") if intent else None
