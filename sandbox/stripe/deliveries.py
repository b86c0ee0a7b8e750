"""Signed deliveries of events to the one webhook endpoint, tried again until it answers 2xx.

Stripe retries over days; this one within minutes, so that a gateway that is restarted in the sandbox gets what it missed.
A delivery that is given up can be sent again through `/_control`, and `GET /v1/events?delivery_success=false` shows it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import stripe

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.rendering import shown

IN_FLIGHT_LIMIT = 32
ANSWER_TIMEOUT_S = 10.0  # hosted Checkout waits as long for the answer to checkout.session.completed
BODY_READ_LIMIT_BYTES = 1024  # of the endpoint's answer, which nobody needs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """How often a delivery is tried, and how long it waits in between: doubling, up to a longest pause."""

    first_s: float = 0.5
    longest_s: float = 15.0
    attempts: int = 12

    def pause_s(self, failed: int) -> float | None:
        """Tell how long to wait after so many failures; None when it is enough."""
        return None if failed >= self.attempts else min(self.first_s * 2 ** (failed - 1), self.longest_s)


@dataclass(frozen=True)
class Webhook:
    """Where events go, and the secret that signs them."""

    url: str
    secret: str


class Deliveries:
    """The deliveries of one account. Records (kind DELIVERY, keyed by event id) outlive a restart; tasks do not."""

    def __init__(self, webhook: Webhook | None, backoff: Backoff) -> None:
        """Take the endpoint, if one is known yet, and the pace of retries."""
        self.webhook = webhook
        self._backoff = backoff
        self._account: Account | None = None
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT_LIMIT)
        self._running = asyncio.Event()  # cleared while paused
        self._running.set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._answered: dict[str, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, account: Account) -> None:
        """Begin, with what an earlier run left pending."""
        self._account = account
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S))
        for delivery in account.store.all(Kind.DELIVERY):
            if delivery["status"] == "pending":
                self._begin(delivery)

    async def stop(self) -> None:
        """Stop sending; what is pending stays pending in the store."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def announce(self, event: Object) -> None:
        """Have a new event delivered, if somebody listens."""
        if self.webhook is not None:
            event["pending_webhooks"] = 1
            self._enqueue(event["id"])

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Send the events of this block to nobody: they are of a time before the endpoint was registered."""
        webhook, self.webhook = self.webhook, None
        try:
            yield
        finally:
            self.webhook = webhook

    def resend(self, event_id: str) -> None:
        """Deliver an event once more, whatever became of it. The caller has looked it up."""
        running = self._tasks.get(event_id)
        if running is None:
            self._enqueue(event_id)

    def pause(self, *, paused: bool) -> None:
        """Hold deliveries back, or let them go."""
        if paused:
            self._running.clear()
        else:
            self._running.set()

    @property
    def paused(self) -> bool:
        """Whether deliveries are held back."""
        return not self._running.is_set()

    async def answered(self, event_id: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Wait until the endpoint has answered the event's first delivery, or failed to; at most `timeout_s`."""
        waiting = self._answered.get(event_id)
        if waiting is None or self.paused:
            return
        try:
            await asyncio.wait_for(waiting.wait(), timeout_s)
        except TimeoutError:
            _log.info("event %s: no answer after %s s; not waiting longer", event_id, timeout_s)

    async def settled(self, timeout_s: float = 30.0) -> None:
        """Wait until nothing is pending. Raises TimeoutError."""
        await asyncio.wait_for(self._idle.wait(), timeout_s)

    def _enqueue(self, event_id: str) -> None:
        delivery = {"event": event_id, "status": "pending", "attempts": 0, "last_status": None, "last_error": None}
        if self._account is not None:  # in the file with the event itself, when the request commits
            self._account.store.put(Kind.DELIVERY, event_id, delivery)
        self._begin(delivery)

    def _begin(self, delivery: Object) -> None:
        event_id = delivery["event"]
        self._idle.clear()
        self._answered[event_id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._deliver(delivery), name=f"deliver {event_id}")
        self._tasks[event_id] = task
        task.add_done_callback(lambda _: self._ended(event_id))

    def _ended(self, event_id: str) -> None:
        del self._tasks[event_id]
        self._answered.pop(event_id).set()
        if not self._tasks:
            self._idle.set()

    async def _deliver(self, delivery: Object) -> None:
        """Try until the endpoint takes it, at most `attempts` times."""
        pause_s: float | None = 0.0
        tries = 0  # of this run: a restart begins with short pauses again
        while pause_s is not None:
            await asyncio.sleep(pause_s)
            await self._running.wait()
            async with self._slots:
                error = await self._attempt(delivery)
            tries += 1
            pause_s = None if error is None else self._backoff.pause_s(tries)
            delivery["status"] = "succeeded" if error is None else "failed" if pause_s is None else "pending"
            delivery["last_error"] = error
            self._keep(delivery)
            self._answered[delivery["event"]].set()

    async def _attempt(self, delivery: Object) -> str | None:
        """Send once; return what went wrong, if anything did."""
        delivery["attempts"] += 1
        delivery["last_status"] = None
        webhook, session, event = self.webhook, self._session, self._event(delivery["event"])
        if webhook is None or session is None or event is None:
            return "no webhook endpoint is set"
        body = json.dumps(shown(event), indent=2, ensure_ascii=False)
        try:
            async with session.post(
                webhook.url, data=body.encode(), headers=_headers(body, webhook.secret), allow_redirects=False
            ) as response:
                await response.content.read(BODY_READ_LIMIT_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return type(error).__name__
        delivery["last_status"] = response.status
        return None if 200 <= response.status < 300 else f"HTTP {response.status}"

    def _event(self, event_id: str) -> Object | None:
        return self._account.store.get(Kind.EVENT, event_id) if self._account else None

    def _keep(self, delivery: Object) -> None:
        if self._account is not None:
            self._account.store.put(Kind.DELIVERY, delivery["event"], delivery)
            self._account.store.commit()


def _headers(body: str, secret: str) -> dict[str, str]:
    """Sign as Stripe signs. The time is the real one: a receiver's tolerance knows no sandbox clock."""
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Stripe-Signature": stripe.WebhookSignature.generate_signature_header(body, secret, int(time.time())),
    }
