"""Answers what a customer may use now: one row, folded with the catalog; always fresh, or hardly behind by a replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from billing_service.deadline import remaining_s
from billing_service.domain.access import Access, SourceType, accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.errors import RevisionNotReachedError
from billing_service.domain.frozen import replace
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.follow_replica import FollowReplica
from billing_service.flows.prices import Prices
from billing_service.storage.customer_reads import CustomerReads
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Database

_Made = TypeVar("_Made")

REVISION_WAIT_S = 2.0  # a replica is behind by milliseconds; what takes longer is for the caller to decide about
FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2


class ReadEntitlements:
    """Loads a customer's row and folds it at the time of the clock."""

    def __init__(
        self, database: Database, prices: Prices, now: Callable[[], datetime], replica: FollowReplica | None = None
    ) -> None:
        """`now` is the one clock of the process; `replica`, where there is one, answers what it may."""
        self._rows = CustomerReads(database, make=self._made)
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
            row = await self._replica.row(customer_id, min_revision)
            if row is not None:
                facts_time = self._now() - timedelta(seconds=row.age_s)  # first: folding may wait for the primary
                return replace(await self.folded(row), facts_time=facts_time)
        found = await self._read(customer_id)
        return found if found.revision >= min_revision else await self._reached(customer_id, min_revision)

    async def into(self, customer_id: str, make: Callable[[Entitlements], _Made]) -> _Made:
        """Give what `make` makes of what the customer may use now. Of many that are read together, on end: see `CustomerReads`."""
        if self._replica is not None:
            return make(await self(customer_id))

        def then(found: Entitlements | CustomerRow) -> _Made | CustomerRow:
            return found if isinstance(found, CustomerRow) else make(found)

        made: _Made | CustomerRow = await self._rows.into(customer_id, then)
        return make(await self.folded(made)) if isinstance(made, CustomerRow) else made

    async def folded(self, row: CustomerRow) -> Entitlements:
        """Fold a row at the time of the clock. Raises as `Prices.plans_for` does."""
        return self._folded(row, await self._prices.plans_for(row.facts))

    def _folded(self, row: CustomerRow, plans: PlanIndex) -> Entitlements:
        return self._at_the_time(row, accesses(row.facts, plans.of_price, plans.of_key), plans)

    def _at_the_time(self, row: CustomerRow, given: Sequence[Access], plans: PlanIndex) -> Entitlements:
        return fold(row.customer_id, row.revision, given, plans.catalog, self._now())

    def _made(self, row: CustomerRow) -> Entitlements | CustomerRow:
        """Fold a row that has just come; give it as it is where the database has to be asked about a price first."""
        plans = self._prices.loaded
        if plans is None:
            return row
        given = accesses(row.facts, plans.of_price, plans.of_key)
        for access in given:
            if access.plan is None and access.type is SourceType.SUBSCRIPTION:
                return row
        return self._at_the_time(row, given, plans)

    async def _read(self, customer_id: str) -> Entitlements:
        found: Entitlements | CustomerRow = await self._rows.into(customer_id)
        return await self.folded(found) if isinstance(found, CustomerRow) else found

    async def _reached(self, customer_id: str, min_revision: int) -> Entitlements:
        """Read again until the revision is there.

        On the primary it is there at once, or was never given: no revision is told before its commit. It can be behind after
        a failover or restore, of which the last may never catch up.
        """
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + remaining_s(REVISION_WAIT_S), FIRST_PAUSE_S
        while True:
            found = await self._read(customer_id)
            if found.revision >= min_revision:
                return found
            if loop.time() + pause >= end:
                raise RevisionNotReachedError(metadata={"revision": str(found.revision)})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
