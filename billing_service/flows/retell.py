"""Has changes that a process with another catalog logged told as this one answers: while a release with another catalog rolls out.

What is watched here is under this process's catalog, and so are its cursors: nobody would be told again what the other one said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import fold
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.prices import Prices
from billing_service.storage import customer_facts
from billing_service.storage.database import Connection, Database
from billing_service.storage.history import LoggedChange


class Retell:
    """Folds by this process's catalog what was logged by another."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now

    async def __call__(self, changes: Sequence[LoggedChange]) -> Sequence[LoggedChange]:
        """Give the changes as they are to be told here, as things stand now. Without a statement where none is another's.

        Raises:
            DatabaseUnavailableError: it does not answer.
        """
        version = self._prices.index.catalog.version
        if all(change.catalog_version == version for change in changes):
            return changes
        plans = await self._prices.plans()
        return await self._database.run(lambda connection: retold(connection, changes, plans, self._now()))


async def retold(
    connection: Connection, changes: Sequence[LoggedChange], plans: PlanIndex, now: datetime | None
) -> Sequence[LoggedChange]:
    """Give the changes with what this catalog gives after each, at a time, or at its own where that is None.

    One of which the facts are not kept any more stays as it was logged.
    """
    others = [change for change in changes if change.catalog_version != plans.catalog.version]
    facts = await customer_facts.after(connection, others) if others else {}
    plans = await recall(connection, chain.from_iterable(items_of(one) for one in facts.values()), plans)
    told: list[LoggedChange] = []
    for change in changes:
        known = facts.get(change.position)
        if known is None:
            told.append(change)
            continue
        given = accesses(known, plans.of_price, plans.of_key)
        folded = fold(change.customer_id, change.revision, given, plans.catalog, now or change.change_time)
        told.append(replace(change, folded=folded))
    return told
