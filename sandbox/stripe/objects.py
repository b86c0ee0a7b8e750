"""What Stripe's objects are here: JSON as dicts, with the kinds spelled as in their `object` field.

A top-level key that begins with an underscore is the stand-in's own note about the object and is never shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

# One Stripe object: exactly the JSON that is answered, plus private "_" keys.
Object = dict[str, Any]
Params = Mapping[str, Any]


class Kind(StrEnum):
    """The kinds of object, and the stand-in's own kinds of record."""

    PRODUCT = "product"
    PRICE = "price"
    CUSTOMER = "customer"
    CHECKOUT_SESSION = "checkout.session"
    LINE_ITEM = "item"
    SUBSCRIPTION = "subscription"
    SUBSCRIPTION_SCHEDULE = "subscription_schedule"
    SUBSCRIPTION_ITEM = "subscription_item"
    INVOICE = "invoice"
    INVOICE_LINE = "line_item"
    INVOICE_PAYMENT = "invoice_payment"
    PAYMENT_INTENT = "payment_intent"
    CHARGE = "charge"
    REFUND = "refund"
    COUPON = "coupon"
    DISCOUNT = "discount"
    DISPUTE = "dispute"
    PORTAL_CONFIGURATION = "billing_portal.configuration"
    PORTAL_SESSION = "billing_portal.session"
    WEBHOOK_ENDPOINT = "webhook_endpoint"
    EVENT = "event"
    IDEMPOTENCY_KEY = "_idempotency_key"
    DELIVERY = "_delivery"
    SETTINGS = "_settings"


def merged_metadata(before: Mapping[str, str], given: Mapping[str, str] | str | None) -> dict[str, str]:
    """Apply a metadata parameter: keys are merged, an empty value unsets one key, an empty string all of them."""
    if given is None:
        return dict(before)
    if isinstance(given, str):
        return {}
    return {key: value for key, value in {**before, **given}.items() if value}


def list_of(data: list[Object], url: str) -> Object:
    """Wrap objects as a complete list."""
    return {"object": "list", "data": data, "has_more": False, "url": url}
