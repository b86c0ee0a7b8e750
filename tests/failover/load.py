"""Webhooks without an end, and who was told what, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import aiohttp

from tests import stripe_events
from tests.acceptance.world import signed

IN_FLIGHT = 16
REQUEST_LIMIT_S = 15.0
RESEND_LIMIT_S = 60.0
RESEND_PAUSE_S = 0.1


class Load:
    """Sends the events of one purchase after another, sixteen at a time, and comes again with what was refused, as Stripe does."""

    def __init__(self, http: aiohttp.ClientSession, gateway: str, secret: str) -> None:
        """Take the gateway's address and the signing secret."""
        self._http, self._url, self._secret = http, f"{gateway}/webhooks/stripe", secret
        self._bodies = self._purchases()
        self._stopping = False
        self._answered = asyncio.Condition()
        self.purchases = 0
        self.acknowledged: dict[str, float] = {}  # event id -> when, of time.monotonic()
        self.refused = 0

    async def run(self) -> None:
        """Send until `stop`, and then until everything that was begun is acknowledged."""
        await asyncio.gather(*(self._send() for _ in range(IN_FLIGHT)))

    def stop(self) -> None:
        """Begin no more purchases."""
        self._stopping = True

    async def until(self, count: int, *, after: float = 0.0) -> None:
        """Wait until so many events were acknowledged after a moment of time.monotonic()."""
        async with asyncio.timeout(RESEND_LIMIT_S), self._answered:
            await self._answered.wait_for(lambda: sum(at > after for at in self.acknowledged.values()) >= count)

    async def until_refused(self) -> None:
        """Wait until somebody is refused who was not yet."""
        before = self.refused
        async with asyncio.timeout(RESEND_LIMIT_S), self._answered:
            await self._answered.wait_for(lambda: self.refused > before)

    def _purchases(self) -> Iterator[tuple[str, bytes]]:
        while not self._stopping:
            bodies = stripe_events.purchase(f"load-{self.purchases}", int(time.time()))
            self.purchases += 1
            yield from ((_id(body), body) for body in bodies)

    async def _send(self) -> None:
        for event_id, body in self._bodies:
            async with asyncio.timeout(RESEND_LIMIT_S):
                while await self._post(body) != 200:
                    self.refused += 1
                    await self._notify()
                    await asyncio.sleep(RESEND_PAUSE_S)
            self.acknowledged[event_id] = time.monotonic()
            await self._notify()

    async def _notify(self) -> None:
        async with self._answered:
            self._answered.notify_all()

    async def _post(self, body: bytes) -> int:
        headers = {"Content-Type": "application/json", **signed(body, self._secret)}
        limit = aiohttp.ClientTimeout(total=REQUEST_LIMIT_S)
        async with self._http.post(self._url, data=body, headers=headers, timeout=limit) as response:
            await response.read()
            if response.status not in {200, 503}:
                raise AssertionError(f"the gateway answered {response.status}")
            return response.status


def _id(body: bytes) -> str:
    return body.split(b'"id": "', 1)[1].split(b'"', 1)[0].decode()
