"""What can be done at Stripe to make it sell what a catalog says: one value per request, with its body; pure.

Everything that is made carries the deployment and the plan in its metadata, and nothing else is ever changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from billing_service.domain.catalog import Charge, Plan, Price
from billing_service.domain.observation import METADATA_DEPLOYMENT
from billing_service.domain.offers import OfferedPrice, OfferedProduct
from billing_service.domain.views import METADATA_PLAN_KEY, METADATA_PRICE_KEY


class ActionKind(StrEnum):
    """The requests that there are, in the order in which they are made: each may need what the one before made."""

    CREATE_PRODUCT = "create_product"
    UPDATE_PRODUCT = "update_product"
    CREATE_PRICE = "create_price"
    REPLACE_PRICE = "replace_price"
    CREATE_PORTAL = "create_portal_configuration"


STAGES = (
    frozenset({ActionKind.CREATE_PRODUCT, ActionKind.UPDATE_PRODUCT}),
    frozenset({ActionKind.CREATE_PRICE, ActionKind.REPLACE_PRICE}),
    frozenset({ActionKind.CREATE_PORTAL}),
)


@dataclass(frozen=True)
class Difference:
    """One field as it is at Stripe and as it will be; None where it is not there."""

    field: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Action:
    """One request."""

    kind: ActionKind
    place: str  # "plans.pro.prices.monthly"
    differences: tuple[Difference, ...]
    body: Mapping[str, Any] | None  # None while it needs what an earlier action makes
    object_id: str | None = None  # what is changed, or replaced

    @property
    def identity(self) -> tuple[str, ...]:
        """Say which action it is, however far those that it needs have come."""
        return (self.kind, self.place, self.object_id or "")

    def idempotency_key(self, deployment: str) -> str:
        """Give a key that two runs share exactly when they do the same to the same state."""
        done = [self.identity, [vars(one) for one in self.differences], self.body]
        content = hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()
        return f"catalog/{deployment}/{content}"


def create_product(plan: Plan, deployment: str) -> Action:
    """Make a plan's product: https://docs.stripe.com/api/products/create."""
    body: dict[str, Any] = {"name": plan.name, "metadata": _metadata(plan, deployment)}
    differences = [Difference("name", None, plan.name)]
    if plan.description:
        body["description"] = plan.description
        differences.append(Difference("description", None, plan.description))
    return Action(ActionKind.CREATE_PRODUCT, place_of_plan(plan), tuple(differences), body)


def update_product(plan: Plan, product: OfferedProduct) -> Action | None:
    """Bring what people read of a product in step; None where it is."""
    pairs = (("name", product.name, plan.name), ("description", product.description, plan.description))
    differences = tuple(Difference(field, before, after) for field, before, after in pairs if before != after)
    if not differences:
        return None
    body = {one.field: one.after for one in differences}
    return Action(ActionKind.UPDATE_PRODUCT, place_of_plan(plan), differences, body, product.product_id)


def make_price(
    plan: Plan,
    price: Price,
    charge: Charge,
    product_id: str | None,
    deployment: str,
    *,
    old: OfferedPrice | None = None,
) -> Action:
    """Make a price; instead of an `old` one, from which the lookup key moves: Stripe changes no price's amount.

    https://docs.stripe.com/products-prices/manage-prices#lookup-keys
    """
    if old is None:
        kind = ActionKind.CREATE_PRICE
        differences = [Difference("lookup_key", None, price.lookup_key), Difference("charge", None, str(charge))]
    else:
        kind = ActionKind.REPLACE_PRICE
        differences = [Difference("charge", str(old.charge or "an amount of another kind"), str(charge))]
    body = None if product_id is None else _price_body(plan, price, charge, product_id, deployment)
    if body is not None and old is not None:
        body["transfer_lookup_key"] = True
    return Action(kind, place_of_price(plan, price), tuple(differences), body, old.price_id if old else None)


def _price_body(plan: Plan, price: Price, charge: Charge, product_id: str, deployment: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "product": product_id,
        "currency": charge.currency,
        "unit_amount": charge.amount_minor,
        "lookup_key": price.lookup_key,
        "metadata": {**_metadata(plan, deployment), METADATA_PRICE_KEY: price.price_key},
    }
    if charge.interval is not None:
        body["recurring"] = {"interval": charge.interval.value, "interval_count": charge.interval_count}
    return body


def place_of_plan(plan: Plan) -> str:
    """Name a plan as the file does."""
    return f"plans.{plan.plan_key}"


def place_of_price(plan: Plan, price: Price) -> str:
    """Name a price by its keys, which stay where its number in the file changes."""
    return f"plans.{plan.plan_key}.prices.{price.price_key}"


def _metadata(plan: Plan, deployment: str) -> dict[str, str]:
    return {METADATA_DEPLOYMENT: deployment, METADATA_PLAN_KEY: plan.plan_key}
