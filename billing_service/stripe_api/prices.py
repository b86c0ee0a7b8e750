"""Stripe's prices as values, and what of them does not fit the catalog. Pure, but for knowing the SDK's objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import stripe

from billing_service.domain.catalog import Catalog, PlanMode


@dataclass(frozen=True)
class StripePrice:
    """One price at Stripe."""

    price_id: str  # "price_..."
    lookup_key: str
    active: bool  # whether it can be sold; what was sold at it stays sold
    recurring: bool
    currency: str  # ISO 4217 in lower case, as Stripe has it
    amount_minor: int | None  # in the currency's smallest unit; None for tiers and for fractions of that unit
    product_id: str  # "prod_..."


@dataclass(frozen=True)
class PriceProblem:
    """Why a price of the catalog cannot be sold now."""

    plan_key: str
    price_key: str
    lookup_key: str
    message: str  # for the operator


@dataclass(frozen=True)
class ResolvedPrices:
    """What the catalog's lookup keys mean at Stripe."""

    price_by_lookup_key: Mapping[str, StripePrice]  # only those that can be sold
    problems: tuple[PriceProblem, ...]


def price_of(price: stripe.Price) -> StripePrice:
    """Turn the SDK's object into a value."""
    product = price.product
    return StripePrice(
        price_id=price.id,
        lookup_key=price.lookup_key or "",
        active=price.active,
        recurring=price.recurring is not None,
        currency=price.currency,
        amount_minor=price.unit_amount,
        product_id=product if isinstance(product, str) else product.id,
    )


def lookup_keys_of(catalog: Catalog) -> tuple[str, ...]:
    """Give every lookup key of the catalog, in its order."""
    return tuple(price.lookup_key for plan in catalog.plans.values() for price in plan.prices)


def resolve_prices(catalog: Catalog, found: Iterable[StripePrice]) -> ResolvedPrices:
    """Match the catalog's prices with those found at Stripe; a price is sellable when it is there, active and of the plan's mode."""
    by_key = {price.lookup_key: price for price in found}
    sellable: dict[str, StripePrice] = {}
    problems = []
    for plan in catalog.plans.values():
        for price in plan.prices:
            at_stripe = by_key.get(price.lookup_key)
            message = _problem(plan.mode, at_stripe)
            if at_stripe is not None and message is None:
                sellable[price.lookup_key] = at_stripe
            else:
                problems.append(PriceProblem(plan.plan_key, price.price_key, price.lookup_key, message or ""))
    return ResolvedPrices(sellable, tuple(problems))


def _problem(mode: PlanMode, price: StripePrice | None) -> str | None:
    """Say why a plan of this mode cannot be sold at this price; None when it can."""
    if price is None:
        return "Stripe has no price with this lookup key"
    if not price.active:
        return "the price is not active at Stripe"
    if price.recurring != (mode is PlanMode.SUBSCRIPTION):
        kind = "recurring" if price.recurring else "paid once"
        return f'the price is {kind} at Stripe, and the plan is of mode "{mode}"'
    return None
