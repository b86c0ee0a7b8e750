"""The budget of requests to Stripe that all processes share; in Postgres, with a share kept for people who wait.

Every request is counted. Background work takes its request first, and waits while only the reserve is left. A call that a
person waits for is counted when it leaves and never waits; while there are many, background work goes on at a quarter of
its rate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from billing_service.domain.errors import BillingError
from billing_service.storage import rereads
from billing_service.storage.database import Database

LOOK_S = 0.2  # between looks at an empty budget
FLUSH_S = 0.2  # between tellings of what was spent: one statement for many requests, and nobody waits for it

# Whether the next request of this task was counted already.
_taken: ContextVar[bool] = ContextVar("taken", default=False)


class Spender(StrEnum):
    """For whom a request to Stripe is made."""

    PEOPLE = "people"  # somebody waits for the answer
    BACKGROUND = "background"


@dataclass(frozen=True)
class Budget:
    """How many requests a second all processes together may make in the background, and what is left for people.

    Stripe allows 100 a second live and 25 in a sandbox: https://docs.stripe.com/rate-limits
    """

    rate_per_s: float = 10.0
    burst: int = 20
    reserve: int = 5


class RequestBudget:
    """What the background work asks before each request, and what hears of every other request."""

    def __init__(self, database: Database, budget: Budget, told: Callable[[Spender], None] | None = None) -> None:
        """Every process must be given the same budget; `told` hears of each request that leaves."""
        self._told = told
        self._database = database
        self._budget = budget
        self._spent = 0  # requests that the other processes were not told of yet

    async def take(self) -> bool:
        """Take the one request that this task makes next; False where only the reserve is left."""
        budget = self._budget
        taken = await self._database.run(
            lambda c: rereads.take_budget(c, rate_per_s=budget.rate_per_s, burst=budget.burst, reserve=budget.reserve)
        )
        _taken.set(taken)
        return taken

    async def wait(self) -> None:
        """Take one request, waiting for it as long as it takes; ends by cancellation alone."""
        while not await self.take():  # noqa: ASYNC110 - it is time that fills it, and other processes that empty it
            await asyncio.sleep(LOOK_S)

    def spend(self) -> None:
        """Count a request that is about to leave, unless it was taken. Never waits: the request matters more."""
        taken = _taken.get()
        if taken:
            _taken.set(False)
        else:
            self._spent += 1
        if self._told is not None:
            self._told(Spender.BACKGROUND if taken else Spender.PEOPLE)

    async def run(self) -> None:
        """Tell the other processes of what was spent, for ever, a few times a second."""
        while True:
            await asyncio.sleep(FLUSH_S)
            with suppress(BillingError):
                await self.flush()

    async def flush(self) -> None:
        """Tell of what was spent so far. Raises DatabaseUnavailableError, and tells of it the next time."""
        requests, budget = self._spent, self._budget
        if requests:
            rate, burst, reserve = budget.rate_per_s, budget.burst, budget.reserve
            await self._database.run(
                lambda c: rereads.spend_budget(c, requests, rate_per_s=rate, burst=burst, reserve=reserve)
            )
            self._spent -= requests
