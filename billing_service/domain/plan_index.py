"""Which plan a Stripe price stands for: what ever resolved is remembered, and the catalog knows the lookup keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from billing_service.domain.catalog import Catalog, Plan


@dataclass(frozen=True)
class PlanIndex:
    """One catalog, and the prices that ever resolved to a plan (price id -> plan key)."""

    catalog: Catalog
    remembered: Mapping[str, str] = field(default_factory=dict)

    def of_price(self, price_id: str, lookup_key: str | None) -> Plan | None:
        """Give the plan that sells, or sold, at a price; None while the catalog knows none.

        What is remembered goes first: a lookup key may have moved to another price, and even to another plan, since.
        """
        plan_key = self.remembered.get(price_id)
        if plan_key is not None and plan_key in self.catalog.plans:
            return self.catalog.plans[plan_key]
        return self.catalog.plan_of_lookup_key(lookup_key) if lookup_key else None

    def of_key(self, plan_key: str) -> Plan | None:
        """Give the plan of a key, or None."""
        return self.catalog.plans.get(plan_key)
