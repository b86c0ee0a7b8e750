"""The budget of requests to Stripe that all processes share; in Postgres, with a share kept for people who wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from billing_service.storage import rereads
from billing_service.storage.database import Database

LOOK_S = 0.2  # between looks at an empty budget


@dataclass(frozen=True)
class Budget:
    """How many requests a second all processes together may make in the background, and what is left for people.

    Stripe allows 100 a second live and 25 in a sandbox: https://docs.stripe.com/rate-limits
    """

    rate_per_s: float = 10.0
    burst: int = 20
    reserve: int = 5


class RequestBudget:
    """What the background work asks before each request."""

    def __init__(self, database: Database, budget: Budget) -> None:
        """Every process must be given the same budget."""
        self._database = database
        self._budget = budget

    async def take(self) -> bool:
        """Take one request; False where only the reserve is left."""
        budget = self._budget
        return await self._database.run(
            lambda c: rereads.take_budget(c, rate_per_s=budget.rate_per_s, burst=budget.burst, reserve=budget.reserve)
        )

    async def wait(self) -> None:
        """Take one request, waiting for it as long as it takes; ends by cancellation alone."""
        while not await self.take():  # noqa: ASYNC110 - it is time that fills it, and other processes that empty it
            await asyncio.sleep(LOOK_S)
