"""What Stripe is sent to change a subscription; pure, so that it can be rendered once and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from billing_service.domain.subscription import ChangeRequest
from billing_service.domain.subscription_target import Target
from billing_service.domain.views import METADATA_PLAN_KEY, METADATA_PRICE_KEY, METADATA_QUANTITY

Body = dict[str, Any]


def change_fingerprint(request: ChangeRequest) -> bytes:
    """Give 32 bytes that are equal for two requests exactly when they ask for the same thing, whatever their ids."""
    asked = {key: value for key, value in asdict(request).items() if key != "request_id"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()


def update_body(target: Target, price_id: str | None) -> Body:
    """Render the body of POST /v1/subscriptions/{id}. `price_id` None: the item stays on its price.

    error_if_incomplete: where the difference cannot be collected, Stripe answers 402 and changes nothing.
    https://docs.stripe.com/api/subscriptions/update
    """
    return {
        "items": [item_body(target, price_id)],
        "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
        "metadata": metadata_of(target),
        "expand": ["latest_invoice"],
    }


def item_body(target: Target, price_id: str | None) -> Body:
    """Render the one item that changes. A price that stays is not named: Stripe refuses to name one that is not sold."""
    price = {} if price_id is None else {"price": price_id}
    return {"id": target.item.item_id, **price, "quantity": target.quantity}


def metadata_of(target: Target) -> Mapping[str, str]:
    """Give what our metadata says of a subscription's plan."""
    return {
        METADATA_PLAN_KEY: target.plan.plan_key,
        METADATA_PRICE_KEY: target.price_key,
        METADATA_QUANTITY: str(target.quantity),
    }


def next_phase_body(target: Target, price_id: str | None) -> Body:
    """Render what is kept of a change at period end: the phase that the schedule is to end with, but for the other items."""
    changed = {"price": price_id or target.item.price_id, "quantity": target.quantity}
    return {"replaced_price": target.item.price_id, "item": changed, "metadata": metadata_of(target)}


def schedule_body(schedule: Mapping[str, Any], interval: Mapping[str, Any], change: Mapping[str, Any]) -> Body:
    """Render the body of POST /v1/subscription_schedules/{id}: the phase that runs, as it is, then one with the change.

    Stripe takes the phase that runs only as it is, with its own start. The one after it lasts one period, without
    proration, and then the schedule lets go of the subscription, which renews as it is then.
    https://docs.stripe.com/billing/subscriptions/subscription-schedules/use-cases
    """
    current = current_phase(schedule)
    items = [_kept(item) for item in current["items"]]
    after = [change["item"] if item["price"] == change["replaced_price"] else item for item in items]
    return {
        "end_behavior": "release",
        "proration_behavior": "none",
        "phases": [
            {**_terms(current), "items": items, "start_date": current["start_date"], "end_date": current["end_date"]},
            {
                **_terms(current),
                "items": after,
                "duration": {"interval": interval["interval"], "interval_count": interval["interval_count"]},
                "proration_behavior": "none",
                "metadata": change["metadata"],
            },
        ],
    }


def current_phase(schedule: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the phase of a schedule that runs now."""
    start = schedule["current_phase"]["start_date"]
    phases: Sequence[Mapping[str, Any]] = schedule["phases"]
    return next(phase for phase in phases if phase["start_date"] == start)


def following_phase(schedule: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give the phase that comes after the one that runs now, or None."""
    end = current_phase(schedule)["end_date"]
    return next((phase for phase in schedule["phases"] if phase["start_date"] == end), None)


def _kept(item: Mapping[str, Any]) -> Body:
    return {"price": id_of(item["price"]), "quantity": item.get("quantity", 1)}


def _terms(phase: Mapping[str, Any]) -> Body:
    """Give what a phase has beside its items and is to keep: left out, Stripe would fall back to the customer's discounts."""
    discounts = [_discount(discount) for discount in phase.get("discounts") or ()]
    kept: Body = {"discounts": discounts} if discounts else {}
    if phase.get("default_payment_method"):
        kept["default_payment_method"] = id_of(phase["default_payment_method"])
    return kept


def _discount(discount: Mapping[str, Any]) -> Body:
    names = ("discount", "coupon", "promotion_code")
    return next(({name: id_of(discount[name])} for name in names if discount.get(name)), {})


def id_of(reference: Any) -> str:
    """Give the id of a reference, bare or expanded."""
    return str(reference["id"]) if isinstance(reference, Mapping) else str(reference)


def preview_body(target: Target, subscription_id: str, price_id: str | None) -> Body:
    """Render the body of POST /v1/invoices/create_preview: what would be collected now.

    https://docs.stripe.com/billing/subscriptions/prorations#preview-proration
    """
    items = [item_body(target, price_id)]
    return {
        "subscription": subscription_id,
        "subscription_details": {"items": items, "proration_behavior": "always_invoice"},
    }


def period_preview_body(target: Target, subscription_id: str, price_id: str | None) -> Body:
    """Render the same for what each period costs from then on."""
    items = [item_body(target, price_id)]
    return {
        "subscription": subscription_id,
        "subscription_details": {"items": items, "proration_behavior": "none"},
        "preview_mode": "recurring",
    }
