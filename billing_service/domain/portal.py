"""Stripe's customer portal: what a caller asks for, and what Stripe is sent for it; pure.

https://docs.stripe.com/customer-management
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from billing_service.domain.observation import METADATA_DEPLOYMENT

METADATA_CONTENT = "billing_portal_content"  # the hash of a configuration's content, by which ours is found again
MAX_PRODUCTS = 10  # Stripe's limit of a configuration: the first ones, in the order of the catalog, can be changed to
GATHERED = (
    2  # how `products_of` gathers; raised where it changes, since what is made by another way is not the same content
)


class PortalFlow(StrEnum):
    """What a person is to find first."""

    MANAGE = "manage"
    UPDATE_PLAN = "update_plan"
    CANCEL = "cancel"
    UPDATE_PAYMENT_METHOD = "update_payment_method"


@dataclass(frozen=True)
class PortalRequest:
    """What a caller asks for, each field valid by itself; `subscription_id` is there for the flows of one subscription."""

    customer_id: str
    return_url: str
    flow: PortalFlow
    subscription_id: str | None


@dataclass(frozen=True)
class PortalPlan:
    """One plan that can be changed to, at these Stripe prices."""

    price_ids: tuple[str, ...]
    quantity_allowed: bool


@dataclass(frozen=True)
class PortalProduct:
    """One product of Stripe's, with the prices of it that can be changed to."""

    product_id: str
    price_ids: tuple[str, ...]
    quantity_allowed: bool


def content_hash(plans: Sequence[PortalPlan], deployment: str) -> str:
    """Give a text that is equal for two configurations exactly when they are to have the same content.

    A price is of one product for good, so that products need not be known for it.
    """
    content = [
        deployment,
        GATHERED,
        [[list(plan.price_ids), plan.quantity_allowed] for plan in plans],
        configuration_body((), {}),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def products_of(plans: Sequence[PortalPlan], product_of_price: Mapping[str, str]) -> tuple[PortalProduct, ...]:
    """Gather prices under their products, ten at most; a price that Stripe does not sell any more is left out.

    Stripe allows a quantity per product, not per price: where one of its plans is sold one at a time, none has a quantity there.
    """
    prices: dict[str, list[str]] = {}
    single: set[str] = set()
    for plan in plans:
        for price_id in plan.price_ids:
            product = product_of_price.get(price_id)
            if product is not None:
                prices.setdefault(product, []).append(price_id)
                single |= set() if plan.quantity_allowed else {product}
    found = [PortalProduct(product, tuple(ids), product not in single) for product, ids in prices.items()]
    return tuple(found[:MAX_PRODUCTS])


def configuration_body(products: Sequence[PortalProduct], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Render the body of POST /v1/billing_portal/configurations.

    https://docs.stripe.com/api/customer_portal/configurations/create
    """
    return {
        "name": "Made from the catalog by the billing service",
        "metadata": dict(metadata),
        "features": {
            "customer_update": {"enabled": True, "allowed_updates": ["email", "name", "address", "tax_id"]},
            "invoice_history": {"enabled": True},
            "payment_method_update": {"enabled": True},
            "subscription_cancel": {"enabled": True, "mode": "at_period_end", "proration_behavior": "none"},
            "subscription_update": _update_feature(products),
        },
    }


def _update_feature(products: Sequence[PortalProduct]) -> dict[str, Any]:
    if not products:
        return {"enabled": False}
    return {
        "enabled": True,
        "default_allowed_updates": ["price", "quantity"],
        "proration_behavior": "always_invoice",
        "products": [
            {
                "product": product.product_id,
                "prices": list(product.price_ids),
                "adjustable_quantity": {"enabled": product.quantity_allowed},
            }
            for product in products
        ],
    }


def configuration_metadata(content: str, deployment: str) -> Mapping[str, str]:
    """Give what tells a configuration of ours from every other one."""
    return {METADATA_DEPLOYMENT: deployment, METADATA_CONTENT: content}


def portal_session_body(request: PortalRequest, stripe_customer_id: str, configuration_id: str) -> dict[str, Any]:
    """Render the body of POST /v1/billing_portal/sessions.

    https://docs.stripe.com/customer-management/portal-deep-links
    """
    body: dict[str, Any] = {
        "customer": stripe_customer_id,
        "configuration": configuration_id,
        "return_url": request.return_url,
    }
    flow = _flow_data(request)
    if flow:
        redirect = {"type": "redirect", "redirect": {"return_url": request.return_url}}
        body["flow_data"] = {**flow, "after_completion": redirect}
    return body


def _flow_data(request: PortalRequest) -> dict[str, Any]:
    subscription = {"subscription": request.subscription_id}
    match request.flow:
        case PortalFlow.MANAGE:
            return {}
        case PortalFlow.UPDATE_PLAN:
            return {"type": "subscription_update", "subscription_update": subscription}
        case PortalFlow.CANCEL:
            return {"type": "subscription_cancel", "subscription_cancel": subscription}
        case PortalFlow.UPDATE_PAYMENT_METHOD:
            return {"type": "payment_method_update"}
