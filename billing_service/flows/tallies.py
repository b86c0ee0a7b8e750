"""Looks now and then at how much there is of what an operator should know of, and tells whoever shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows.reconcile import covered, walked_until
from billing_service.flows.request_budget import Budget
from billing_service.storage import tally
from billing_service.storage.database import Connection, Database
from billing_service.storage.tally import Tally

INTERVAL_S: Final = 15.0  # as often as a scraper comes


class Tallies:
    """One look after the other."""

    def __init__(
        self, database: Database, budget: Budget, now: Callable[[], datetime], told: Callable[[Tally, int], None]
    ) -> None:
        """Take the budget of requests to Stripe, the clock of the process, and who is told: also up to when events were reconciled."""
        self._database = database
        self._budget = budget
        self._now = now
        self._told = told

    async def run(self) -> None:
        """Look for ever; while the database is away, the last numbers stand."""
        while True:
            with suppress(DatabaseUnavailableError):  # readiness says it
                self._told(*await self._database.run(self._take))
            await asyncio.sleep(INTERVAL_S)

    async def _take(self, connection: Connection) -> tuple[Tally, int]:
        taken = await tally.take(connection, rate_per_s=self._budget.rate_per_s, burst=self._budget.burst)
        return taken, walked_until(await covered(connection, int(self._now().timestamp())))
