"""Logs the changes that time alone makes: a trial, period, grace or purchase that ended. Reads are right without it.

Any number of processes may run one each; a customer who is locked elsewhere is left to whoever holds the lock,
who takes what is overdue before writing anything else (`flows/change_by_time.py`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from itertools import chain

import msgspec
import structlog

from billing_service.domain.errors import BillingError
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.change_by_time import change_by_time, told_last
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.prices import Prices
from billing_service.logs import named
from billing_service.storage import customer_facts, customers, derivations, history
from billing_service.storage.database import TRANSACTION_BOUND_S, Connection, Database
from billing_service.storage.unwritable import UnwritableError

MOST = 100  # customers in one transaction
LONGEST_WAIT_S = 1.0  # between looks; a clock may jump, and another process may make something due
SHORTEST_WAIT_S = 0.005
BEAT_S = 10.0
# After that a process has gone: it says so each `BEAT_S`, and what it wrote last was committed within `TRANSACTION_BOUND_S`.
SILENT_S = 3 * BEAT_S + TRANSACTION_BOUND_S

log = structlog.get_logger(__name__)


class TimeChanges:
    """The drain over what is due."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now
        self._beat_due_s = -math.inf
        self._looked_at: Mapping[str, str] | None = None  # the prices whose holders were

    async def run(self) -> None:
        """Log changes as they fall due, for ever; and beside that look at everybody, or at some, where something else may have changed them."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._look_for_ever())
            both.create_task(self._drain_for_ever())

    async def _look_for_ever(self) -> None:
        is_looked_again = False
        while True:
            try:
                if not is_looked_again:
                    await self.look_again()
                    is_looked_again = True
                await self.look_after_others()
                await self.look_at_holders()
            except (BillingError, UnwritableError) as error:
                log.warning("time_changes_interrupted", error=named(error))
            await asyncio.sleep(LONGEST_WAIT_S)

    async def _drain_for_ever(self) -> None:
        while True:
            try:
                pause_s = 0.0 if await self.drain() else await self._wait_s()
            except (BillingError, UnwritableError) as error:
                log.warning("time_changes_interrupted", error=named(error))
                pause_s = LONGEST_WAIT_S
            await asyncio.sleep(pause_s)

    async def look_again(self) -> None:
        """After the catalog changed, have everybody looked at once: a policy may end things at another time now.

        Raises:
            BillingError: the database is away; begun anew, it does all of it again.
        """
        version = self._prices.index.catalog.version
        before = await self._database.run(lambda c: derivations.version(c, derivations.NEXT_CHANGE))
        if before == version:
            return
        if before is not None:  # whoever works with it may be of a release that does not say so
            await self._database.run(lambda c: derivations.beat(c, before))
        await self._look_at(None)
        await self._database.run(lambda c: derivations.set_version(c, derivations.NEXT_CHANGE, version))

    async def look_after_others(self) -> None:
        """Say which catalog is in use here; and have everybody looked at once more when the last process with another one has gone.

        What that one wrote meanwhile, it wrote by its own policies: when time changes something next, too. Raises as `look_again`.
        """
        if not await self._beat():
            return
        version = self._prices.index.catalog.version
        gone = await self._database.run(lambda c: derivations.gone(c, version, SILENT_S))
        if gone:
            log.info("looking_again_after_other_catalogs", versions=gone)
            await self._look_at(None)
            await self._database.run(lambda c: derivations.forget(c, gone, SILENT_S))

    async def look_at_holders(self) -> None:
        """After prices resolved to plans that did not before, have those looked at who hold them: nobody else tells of it.

        Every customer is read, and few are written. Begun anew, or by two processes at once, it logs nothing twice.

        Raises:
            BillingError: the database is away.
        """
        mine = (await self._prices.plans()).remembered
        if mine == self._looked_at:
            return
        kept = await self._database.run(lambda c: derivations.version(c, derivations.PRICES))
        before = (
            mine if kept is None else msgspec.json.decode(kept, type=dict[str, str])
        )  # none: this release began here
        new = {price_id for price_id, plan_key in mine.items() if before.get(price_id) != plan_key}
        if new:
            await self._look_at(new)
        if new or kept is None:
            text = msgspec.json.encode({**before, **mine}, order="sorted").decode()
            await self._database.run(lambda c: derivations.set_version(c, derivations.PRICES, text))
        self._looked_at = mine

    async def _beat(self) -> bool:
        """Say which catalog is in use here, where that is due; give whether it was."""
        if time.monotonic() < self._beat_due_s:
            return False
        version = self._prices.index.catalog.version
        await self._database.run(lambda c: derivations.beat(c, version))
        self._beat_due_s = time.monotonic() + BEAT_S
        return True

    async def _look_at(self, price_ids: Collection[str] | None) -> None:
        after: str | None = ""
        while after is not None:
            await self._beat()
            now = self._now()
            after = await self._database.run(
                lambda c, now=now, after=after: customers.look_again(c, now, after, MOST, price_ids)  # type: ignore[misc] # bound now
            )

    async def drain(self) -> int:
        """Take one batch of what is due; give how many customers it was."""
        plans = await self._prices.plans()
        return await self._database.run(lambda connection: self._batch(connection, plans))

    async def _batch(self, connection: Connection, plans: PlanIndex) -> int:
        now = self._now()
        due = await customers.due(connection, now, MOST)
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
        next_due = await self._database.run(customers.next_due)
        if next_due is None:
            return LONGEST_WAIT_S
        return min(max((next_due - self._now()).total_seconds(), SHORTEST_WAIT_S), LONGEST_WAIT_S)
