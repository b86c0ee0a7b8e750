"""The budget of requests at Stripe that all processes share, and whose turn it is when it runs low: that of people.

Every request is counted. Work in the background takes its request first and waits while only the reserve is left. A call
that a person waits for never waits for the budget: it spends what there is, the reserve too, and so puts background work off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass

from billing_service.domain.errors import BillingError
from billing_service.storage import rereads
from billing_service.storage.database import Database

FLUSH_S = 0.2  # one statement for many requests; nobody waits for it

_paid: ContextVar[int] = ContextVar("paid", default=0)  # requests of this task that were taken beforehand


@dataclass(frozen=True)
class Budget:
    """How many requests a second all processes together make before background work waits, and what it leaves to people.

    Stripe allows 100 a second live and 25 in a sandbox: https://docs.stripe.com/rate-limits
    """

    rate_per_s: float = 20.0
    burst: int = 40
    reserve: int = 10


class StripeBudget:
    """Counts requests; one per process, over the one row that they share."""

    def __init__(self, database: Database, budget: Budget | None = None) -> None:
        """Take the limits."""
        self._database = database
        self._budget = budget or Budget()
        self._spent = 0  # requests that the other processes were not told of yet

    async def take(self) -> bool:
        """Take one request for background work; False while only the reserve is left. Raises DatabaseUnavailableError."""
        budget = self._budget
        return await self._database.run(
            lambda c: rereads.take_budget(c, rate_per_s=budget.rate_per_s, burst=budget.burst, reserve=budget.reserve)
        )

    @contextmanager
    def paid(self, requests: int) -> Iterator[None]:
        """Let the block make so many requests that `take` has counted already."""
        token = _paid.set(requests)
        try:
            yield
        finally:
            _paid.reset(token)

    def spend(self) -> None:
        """Count a request that is about to leave. Never waits: the request matters more than the count."""
        if _paid.get() > 0:
            _paid.set(_paid.get() - 1)
        else:
            self._spent += 1

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
            await self._database.run(
                lambda c: rereads.spend_budget(c, requests, rate_per_s=budget.rate_per_s, burst=budget.burst)
            )
            self._spent -= requests
