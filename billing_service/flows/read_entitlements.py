"""Answers what a customer may use now: one row, folded with the catalog; always fresh, or hardly behind by a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from billing_service.deadline import remaining_s
from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.errors import RevisionNotReachedError
from billing_service.flows.follow_replica import FollowReplica
from billing_service.flows.prices import Prices
from billing_service.storage.customer_reads import CustomerReads
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Database

REVISION_WAIT_S = 2.0  # a replica is behind by milliseconds; what takes longer is for the caller to decide about
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2


class ReadEntitlements:
    """Loads a customer's row and folds it at the time of the clock."""

    def __init__(
        self, database: Database, prices: Prices, now: Callable[[], datetime], replica: FollowReplica | None = None
    ) -> None:
        """`now` is the one clock of the process; `replica`, where there is one, answers what it may."""
        self._rows = CustomerReads(database)
        self._replica = replica
        self._prices = prices
        self._now = now

    async def __call__(self, customer_id: str, min_revision: int = 0) -> Entitlements:
        """Give what the customer may use now; one that was never seen has the default plan.

        Raises:
            RevisionNotReachedError: the customer stays below `min_revision`.
            DatabaseUnavailableError: it does not answer.
        """
        if self._replica is not None:
            found = await self._replica.row(customer_id, min_revision)
            if found is not None:
                facts_time = self._now() - timedelta(seconds=found.age_s)  # first: folding may wait for the primary
                return replace(await self.folded(found), facts_time=facts_time)
        row = await self._rows.row(customer_id)
        if row.revision < min_revision:
            row = await self._reached(customer_id, min_revision)
        return await self.folded(row)

    async def folded(self, row: CustomerRow) -> Entitlements:
        """Fold a row at the time of the clock. Raises as `Prices.plans_for` does."""
        plans = await self._prices.plans_for(row.facts)
        given = accesses(row.facts, plans.of_price, plans.of_key)
        return fold(row.customer_id, row.revision, given, plans.catalog, self._now())

    async def _reached(self, customer_id: str, min_revision: int) -> CustomerRow:
        """Read again until the revision is there.

        On the primary it is there at once, or was never given: no revision is told before its commit. It can be behind after
        a failover or restore, of which the last may never catch up.
        """
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + remaining_s(REVISION_WAIT_S), FIRST_PAUSE_S
        while True:
            row = await self._rows.row(customer_id)
            if row.revision >= min_revision:
                return row
            if loop.time() + pause >= end:
                raise RevisionNotReachedError(metadata={"revision": str(row.revision)})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
