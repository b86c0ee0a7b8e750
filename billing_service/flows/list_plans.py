"""Lists what is sold, for a pricing page."""

from __future__ import annotations

from dataclasses import dataclass

from billing_service.domain.catalog import Catalog, Plan
from billing_service.flows.prices import Prices


@dataclass(frozen=True)
class PlanListing:
    """The plans in the catalog's order, and which of their prices can be bought now, as (plan key, price key)."""

    plans: tuple[Plan, ...]
    available_price_keys: frozenset[tuple[str, str]]
    catalog: Catalog


class ListPlans:
    """Answers from memory."""

    def __init__(self, prices: Prices) -> None:
        """`prices` knows the catalog and what resolved."""
        self._prices = prices

    def __call__(self) -> PlanListing:
        """Give the listing as it stands."""
        catalog = self._prices.index.catalog
        return PlanListing(tuple(catalog.plans.values()), self._prices.available(), catalog)
