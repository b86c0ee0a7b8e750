"""Looks now and then at how much there is of what an operator should know of, and tells whoever shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows.request_budget import Budget
from billing_service.storage import tally
from billing_service.storage.database import Connection, Database
from billing_service.storage.tally import Tally

INTERVAL_S: Final = 15.0  # as often as a scraper comes


class Tallies:
    """One look after the other."""

    def __init__(self, database: Database, budget: Budget, told: Callable[[Tally], None]) -> None:
        """Take the database, the budget of requests to Stripe, and who is told."""
        self._database = database
        self._budget = budget
        self._told = told

    async def run(self) -> None:
        """Look for ever; while the database is away, the last numbers stand."""
        while True:
            with suppress(DatabaseUnavailableError):  # readiness says it
                self._told(await self._database.run(self._take))
            await asyncio.sleep(INTERVAL_S)

    def _take(self, connection: Connection) -> Awaitable[Tally]:
        return tally.take(connection, rate_per_s=self._budget.rate_per_s, burst=self._budget.burst)
