"""Logs the changes that time alone makes: a trial, period, grace or purchase that ended. Reads are right without it.

Any number of processes may run one each; a customer who is locked elsewhere is left to whoever holds the lock,
who takes what is overdue before writing anything else (`flows/change_by_time.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from itertools import chain

import structlog

from billing_service.domain.errors import BillingError
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.change_by_time import change_by_time, told_last
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.prices import Prices
from billing_service.logs import named
from billing_service.storage import customer_facts, customers, history
from billing_service.storage.database import Connection, Database
from billing_service.storage.unwritable import UnwritableError

MOST = 100  # customers in one transaction
MOST_NOT_UNDERSTOOD = 1_000  # who are left out, of whom each look at who is due names all
LONGEST_WAIT_S = 1.0  # between looks; a clock may jump, and another process may make something due
SHORTEST_WAIT_S = 0.005

log = structlog.get_logger(__name__)


class TimeChanges:
    """The drain over what is due."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now
        # Whoever a newer release wrote, which was taken back: he is due for as long.
        self._not_understood: set[str] = set()

    async def run(self) -> None:
        """Log changes as they fall due, for ever."""
        while True:
            try:
                pause_s = 0.0 if await self.drain() else await self._wait_s()
            except (BillingError, UnwritableError) as error:
                log.warning("time_changes_interrupted", error=named(error))
                pause_s = LONGEST_WAIT_S
            await asyncio.sleep(pause_s)

    async def drain(self) -> int:
        """Take one batch of what is due; give how many customers it was."""
        plans = await self._prices.plans()
        return await self._database.run(lambda connection: self._batch(connection, plans))

    async def _batch(self, connection: Connection, plans: PlanIndex) -> int:
        now = self._now()
        due, not_understood = await customers.due(connection, now, MOST, self._not_understood)
        if not_understood:
            log.warning("customers_not_understood", customers=len(not_understood))
            self._not_understood.update(not_understood[: MOST_NOT_UNDERSTOOD - len(self._not_understood)])
        if not due:
            return 0
        plans = await recall(connection, chain.from_iterable(items_of(row.facts) for row, _ in due), plans)
        told = await told_last(connection, [row for row, _ in due], plans)
        changes = [change_by_time(row, since, plans, now, told.get(row.customer_id)) for row, since in due]
        ends = {change.row.customer_id: change.after.next_change_time for change in changes}
        await customers.save(connection, [change.row for change in changes], ends)
        given = [change for change in changes if change.gives]
        if given:
            await customer_facts.append(connection, [change.row for change in given], now)
            await history.append(connection, given, plans.catalog.version, now)
        return len(due)

    async def _wait_s(self) -> float:
        next_due = await self._database.run(lambda connection: customers.next_due(connection, self._not_understood))
        if next_due is None:
            return LONGEST_WAIT_S
        return min(max((next_due - self._now()).total_seconds(), SHORTEST_WAIT_S), LONGEST_WAIT_S)
