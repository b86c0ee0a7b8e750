"""Which plan a Stripe price stands for: what ever resolved is remembered, and the catalog knows the lookup keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from billing_service.domain.catalog import Catalog, Plan
from billing_service.domain.views import ItemView


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

    def told(self, items: Iterable[ItemView]) -> Mapping[str, str]:
        """Give the prices that are not remembered and whose lookup key says the plan (price id -> lookup key).

        To be remembered with what said so: once the key has moved to another price, nothing says it any more.
        """
        return {
            item.price_id: item.lookup_key
            for item in items
            if item.lookup_key is not None
            and item.price_id not in self.remembered
            and self.catalog.plan_of_lookup_key(item.lookup_key) is not None
        }

    def unresolved(self, items: Iterable[ItemView]) -> frozenset[str]:
        """Give the ids of prices that stand for no plan as far as this index knows; another process may know more."""
        return frozenset(i.price_id for i in items if self.of_price(i.price_id, i.lookup_key) is None)

    def remembering(self, more: Mapping[str, str]) -> PlanIndex:
        """Give an index that also has these prices (price id -> plan key)."""
        return replace(self, remembered={**self.remembered, **more}) if more else self

    def of_key(self, plan_key: str) -> Plan | None:
        """Give the plan of a key, or None."""
        return self.catalog.plans.get(plan_key)
