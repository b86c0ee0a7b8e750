"""Counts the webhooks that are being answered: for their bound, for the drain that waits for the last of them, and what was beyond the bound."""

from __future__ import annotations

import asyncio
import math

MAX_IN_FLIGHT = 1024  # each may hold a body of 1 MiB that nobody has verified yet
LINE_PAUSE_S = 10.0  # between two lines of the log about what was turned away: a flood must not fill it


class InFlight:
    """A bounded count that can be waited on. Where there is no room left, the body that has been under way for the longest makes room.

    Stripe's come in one piece. Whoever else finds the address could otherwise hold all the room there is by sending a byte now and then.
    """

    def __init__(self, limit: int = MAX_IN_FLIGHT) -> None:
        """Take how many there may be."""
        self._limit = limit
        self._count = 0
        self._bodies: dict[asyncio.Timeout, None] = {}  # of those that did not come in one piece, the first begun first
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> bool:
        """Count one in, and say whether there was room. Whoever makes room leaves in a moment: until then there is one more."""
        if self._count >= self._limit and not self._cut_off_slowest():
            return False
        self._count += 1
        self._idle.clear()
        return True

    def leave(self) -> None:
        """Count one out."""
        self._count -= 1
        if self._count == 0:
            self._idle.set()

    def begin_body(self, limit: asyncio.Timeout) -> None:
        """Note that a body is on its way, for as long as this limit lets it."""
        self._bodies[limit] = None

    def end_body(self, limit: asyncio.Timeout) -> bool:
        """Note that it is not any more, and say whether it was cut off for somebody else."""
        if limit not in self._bodies:
            return True
        del self._bodies[limit]
        return False

    def _cut_off_slowest(self) -> bool:
        slowest = next((limit for limit in self._bodies if not limit.expired()), None)
        if slowest is None:
            return False
        del self._bodies[slowest]
        slowest.reschedule(0)  # long past
        return True

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until none is left, at most `timeout_s`; say whether none is."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


class TurnedAway:
    """Says when the log is to tell of webhooks for which there was no room, and of how many."""

    def __init__(self) -> None:
        """Begin with none."""
        self._untold = 0
        self._told_at = -math.inf

    def note(self, now: float) -> int:
        """Count one; give how many to tell of now, each once and not sooner than LINE_PAUSE_S after the last time, or 0."""
        self._untold += 1
        if now - self._told_at < LINE_PAUSE_S:
            return 0
        count, self._untold, self._told_at = self._untold, 0, now
        return count
