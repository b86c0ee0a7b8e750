"""Asks Stripe again where it did not answer, or asks to wait: for long work that nobody waits for, and that one bad answer should not end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from billing_service.flows.request_budget import RequestBudget
from billing_service.logs import named
from billing_service.stripe_api.errors import StripeBusy, StripeDefinite, StripeNoAnswer

TRIES = 4  # of one request
PAUSE_S = 1.0  # after the first of them, twice as long after each

_Answer = TypeVar("_Answer")

log = structlog.get_logger(__name__)


class Patience:
    """Has requests made within the budget, each several times if need be."""

    def __init__(self, budget: RequestBudget) -> None:
        """Every try takes one request from the budget."""
        self._budget = budget

    async def __call__(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask, and again where Stripe does not answer or asks to wait.

        Raises:
            StripeCallError: Stripe answers something else, or nothing each time.
        """
        for attempt in range(1, TRIES):
            await self._budget.wait()
            try:
                return await ask()
            except (StripeNoAnswer, StripeBusy, StripeDefinite) as error:
                if isinstance(error, StripeDefinite) and not error.is_server_error:
                    raise
                log.info("stripe_asked_again", attempt=attempt, error=named(error))
                await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
        await self._budget.wait()
        return await ask()
