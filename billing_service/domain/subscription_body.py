"""What Stripe is sent to change a subscription; pure, so that it can be rendered once and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from billing_service.domain.observation import METADATA_DEPLOYMENT
from billing_service.domain.subscription import ChangeRequest
from billing_service.domain.subscription_target import Target
from billing_service.domain.views import METADATA_PLAN_KEY, METADATA_PRICE_KEY, METADATA_QUANTITY, SubscriptionStatus

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


def next_phase_body(target: Target, price_id: str | None, deployment: str) -> Body:
    """Render what is kept of a change at period end; `subscription_schedule` makes of it what Stripe is sent."""
    return {
        "item": {"price": price_id or target.item.price_id, "quantity": target.quantity},
        "metadata": metadata_of(target),
        "mark": {METADATA_DEPLOYMENT: deployment},
    }


def resume_body(subscription: Mapping[str, Any]) -> Body:
    """Render what takes back the first of what keeps a subscription, as Stripe gave it, from renewing.

    A cancellation, by the mark that it carries: the portal sets `cancel_at` alone, and under a schedule of ours that names
    when the next phase begins. Else a pause, of the subscription or of its collection. Empty where there is none.
    https://docs.stripe.com/billing/subscriptions/cancel and https://docs.stripe.com/billing/subscriptions/pause
    """
    if subscription["cancel_at_period_end"]:
        return {"cancel_at_period_end": False}
    if subscription["cancel_at"] is not None and not subscription.get("schedule"):
        return {"cancel_at": ""}
    if subscription["status"] == SubscriptionStatus.PAUSED:
        return {"billing_cycle_anchor": {"type": "now"}}
    if subscription.get("pause_collection"):
        return {"pause_collection": ""}
    return {}


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
