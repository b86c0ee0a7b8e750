"""What Stripe's account sells, as far as a catalog is concerned: values of its products, prices and portal configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from billing_service.domain.catalog import Charge


@dataclass(frozen=True)
class OfferedProduct:
    """One product at Stripe."""

    product_id: str  # "prod_..."
    name: str
    description: str  # empty where it has none
    active: bool
    plan_key: str | None  # the plan for which this deployment made it; None for a product that it did not make


@dataclass(frozen=True)
class OfferedPrice:
    """One price at Stripe."""

    price_id: str  # "price_..."
    lookup_key: str
    active: bool  # whether it can be sold; what was sold at it stays sold
    livemode: bool
    recurring: bool
    metered: bool  # charged by reported usage, which cannot be sold by number
    charge: Charge | None  # None for tiers, fractions of a unit, and whatever else one amount does not say
    product: OfferedProduct
    ours: bool  # whether this deployment made it


@dataclass(frozen=True)
class Offers:
    """What is there at one moment."""

    prices: Mapping[str, OfferedPrice]  # by lookup key; those that the catalog names
    # By plan key; those that this deployment made, the oldest active one of each plan.
    products: Mapping[str, OfferedProduct]
    portals: frozenset[str]  # the contents (hashes) of this deployment's active portal configurations

    def product_of_price(self) -> Mapping[str, str]:
        """Give the product id of each price id."""
        return {price.price_id: price.product.product_id for price in self.prices.values()}
