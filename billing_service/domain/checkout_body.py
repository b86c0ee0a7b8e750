"""What Stripe is sent for an attempt to buy; pure, so that it can be rendered once and stored.

Our ids go on every object, because Stripe copies metadata between none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from billing_service.domain.catalog import Catalog, Plan, PlanMode
from billing_service.domain.checkout import CheckoutRequest, PlanGroup
from billing_service.domain.observation import METADATA_CUSTOMER_ID, METADATA_DEPLOYMENT
from billing_service.domain.views import METADATA_INTENT, METADATA_PLAN_KEY, METADATA_PRICE_KEY, METADATA_QUANTITY

# Stripe takes 30 minutes to 24 hours from the moment at which it makes the session; five minutes are for clocks that differ.
# An attempt is resumed for up to 23 hours, which leaves the page 55 minutes.
SESSION_LIFE = timedelta(hours=23, minutes=55)


def fingerprint(request: CheckoutRequest, price_key: str) -> bytes:
    """Give 32 bytes that are equal for two requests exactly when they ask for the same thing, whatever their ids."""
    asked = {key: value for key, value in vars(request).items() if key != "request_id"}
    asked |= {"price_key": price_key, "metadata": dict(request.metadata)}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()


def plan_group_of(plan: Plan) -> str:
    """Give the group within which a customer has one attempt at a time; an add-on is a group by itself."""
    return f"group:{plan.group}" if plan.group is not None else f"plan:{plan.plan_key}"


def group_in(catalog: Catalog, plan: Plan) -> PlanGroup:
    """Give the group of a plan with every plan that is in it now."""
    name = plan_group_of(plan)
    return PlanGroup(name, tuple(one.plan_key for one in catalog.plans.values() if plan_group_of(one) == name))


def session_body(
    request: CheckoutRequest,
    plan: Plan,
    price_key: str,
    price_id: str,
    intent_id: UUID,
    deployment: str,
    now: datetime,
    *,
    trial: bool,
) -> dict[str, Any]:
    """Render the body of POST /v1/checkout/sessions, all but the `customer`; `trial`: the customer may have the plan's.

    https://docs.stripe.com/api/checkout/sessions/create
    """
    metadata = {
        **request.metadata,
        METADATA_DEPLOYMENT: deployment,
        METADATA_CUSTOMER_ID: request.customer_id,
        METADATA_INTENT: str(intent_id),
        METADATA_PLAN_KEY: plan.plan_key,
        METADATA_PRICE_KEY: price_key,
        METADATA_QUANTITY: str(request.quantity),
    }
    made = "subscription_data" if plan.mode is PlanMode.SUBSCRIPTION else "payment_intent_data"
    body: dict[str, Any] = {
        "mode": plan.mode.value,
        "line_items": [{"price": price_id, "quantity": request.quantity}],
        "success_url": request.success_url,
        "cancel_url": request.cancel_url,
        "client_reference_id": request.customer_id,
        "expires_at": int((now + SESSION_LIFE).timestamp()),
        "metadata": metadata,
        made: {"metadata": metadata},
    }
    if trial and plan.policy.trial is not None and plan.mode is PlanMode.SUBSCRIPTION:
        body[made]["trial_period_days"] = plan.policy.trial.days
    if request.allow_promotion_codes:
        body["allow_promotion_codes"] = True
    return body


def customer_body(customer_id: str, email: str | None, deployment: str) -> Mapping[str, Any]:
    """Render the body of POST /v1/customers."""
    metadata = {METADATA_DEPLOYMENT: deployment, METADATA_CUSTOMER_ID: customer_id}
    return {"metadata": metadata} if email is None else {"metadata": metadata, "email": email}
