"""What Stripe sells, for tests: the example's catalog as `catalog apply` makes it, and ways to have it otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from billing_service.domain.catalog import Catalog, PlanMode
from billing_service.domain.catalog_comparison import Comparison, compare
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.offers import OfferedPrice, OfferedProduct, Offers

TEXT = (Path(__file__).parents[3] / "catalog.toml").read_text(encoding="utf-8")
CATALOG = parse_catalog(TEXT)
DEPLOYMENT = "default"


def product(of: str, **more: Any) -> OfferedProduct:
    """Give a product that this deployment made for a plan of the example."""
    plan = CATALOG.plans[of]
    made = OfferedProduct(f"prod_{of}", plan.name, plan.description, active=True, plan_key=of)
    return replace(made, **more)


def offered() -> dict[str, OfferedPrice]:
    """Give every price of the example as this deployment makes it, by lookup key."""
    return {
        price.lookup_key: OfferedPrice(
            price_id=f"price_{price.lookup_key}",
            lookup_key=price.lookup_key,
            active=True,
            livemode=False,
            recurring=plan.mode is PlanMode.SUBSCRIPTION,
            metered=False,
            charge=price.charge,
            product=product(plan.plan_key),
            ours=True,
        )
        for plan in CATALOG.plans.values()
        for price in plan.prices
    }


def offers(prices: dict[str, OfferedPrice]) -> Offers:
    """Give an account with these prices, and their products that are ours; without portal configurations."""
    products = {one.product.plan_key: one.product for one in prices.values() if one.product.plan_key is not None}
    return Offers(prices, products, frozenset())


def compared(
    prices: dict[str, OfferedPrice], catalog: Catalog = CATALOG, *, livemode: bool | None = False
) -> Comparison:
    """Compare, leaving out the portal."""
    found = compare(catalog, offers(prices), DEPLOYMENT, livemode=livemode)
    return replace(found, actions=tuple(one for one in found.actions if not one.place.startswith("portal.")))
