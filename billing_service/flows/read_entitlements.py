"""Answers what a customer may use now: one row, folded with the catalog; always fresh."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.flows.prices import Prices
from billing_service.storage.customer_reads import CustomerReads
from billing_service.storage.database import Database


class ReadEntitlements:
    """Loads a customer's row and folds it at the time of the clock."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._rows = CustomerReads(database)
        self._prices = prices
        self._now = now

    async def __call__(self, customer_id: str) -> Entitlements:
        """Give what the customer may use now; one that was never seen has the default plan.

        Raises:
            DatabaseUnavailableError: it does not answer.
        """
        row = await self._rows.row(customer_id)
        plans = await self._prices.plans_for(row.facts)
        given = accesses(row.facts, plans.of_price, plans.of_key)
        return fold(customer_id, row.revision, given, plans.catalog, self._now())
