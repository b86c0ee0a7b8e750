"""Counts the webhooks that are being answered: for their bound, and for the drain that waits for the last of them."""

from __future__ import annotations

import asyncio

MAX_IN_FLIGHT = 1024  # each may hold a body of 1 MiB that nobody has verified yet


class InFlight:
    """A bounded count that can be waited on."""

    def __init__(self, limit: int = MAX_IN_FLIGHT) -> None:
        """Take how many there may be."""
        self._limit = limit
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> bool:
        """Count one in, and say whether there was room."""
        if self._count >= self._limit:
            return False
        self._count += 1
        self._idle.clear()
        return True

    def leave(self) -> None:
        """Count one out."""
        self._count -= 1
        if self._count == 0:
            self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until none is left, at most `timeout_s`; say whether none is."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
