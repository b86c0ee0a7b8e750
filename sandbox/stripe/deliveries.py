"""Signed deliveries of events to the one webhook endpoint, tried again until it answers 2xx.

Stripe retries over days; this one within minutes, so that a gateway that is restarted in the sandbox gets what it missed.
A delivery that is given up can be sent again through `/_control`, and `GET /v1/events?delivery_success=false` shows it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import stripe

from sandbox.stripe import old_version
from sandbox.stripe.account import Account
from sandbox.stripe.faults import Fate, Faults
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.rendering import shown
from sandbox.stripe.thin_events import thin_twin
from sandbox.stripe.webhook_endpoints import listener

# Nobody should subscribe to these: a failure to answer delays the customer's invoice by up to three days.
# https://docs.stripe.com/billing/subscriptions/webhooks#understand
UNSENT = frozenset({"invoice.created"})
IN_FLIGHT_LIMIT = 32
ANSWER_TIMEOUT_S = 10.0  # hosted Checkout waits as long for the answer to checkout.session.completed
HOLD_S = 1.0  # at most, for a delivery that another one is to overtake
ROLLED_SECRET = "whsec_that_is_being_replaced"
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

    def __init__(self, webhook: Webhook | None, backoff: Backoff, faults: Faults) -> None:
        """Take the endpoint, if one is known yet, the pace of retries, and what is to go wrong on the way."""
        self.webhook = webhook
        self._backoff = backoff
        self._faults = faults
        self.attempts = 0  # of this run
        self.taken: dict[str, None] = {}  # ids of the events that were answered 2xx in this run
        self._other_ended = asyncio.Event()  # set, and replaced, whenever a delivery ends: what is held goes on then
        self._account: Account | None = None
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT_LIMIT)
        self._running = asyncio.Event()  # cleared while paused
        self._running.set()
        self._unheard = False
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
        """Have a new event delivered, if somebody listens, as the faults let."""
        if self._unheard or event["type"] in UNSENT or self._target(event["type"]) is None:
            return
        fate = self._faults.next_fate()
        self._send(event, fate)
        if fate.twin and self._account is not None:
            twin = {**event, "id": new_id(Kind.EVENT)}
            self._account.store.put(Kind.EVENT, twin["id"], twin)
            self._send(twin, Fate(old_version=fate.old_version))
        thin = thin_twin(event) if fate.thin else None
        if thin is not None:
            self._enqueue(thin["id"], thin=thin)

    @property
    def has_endpoint(self) -> bool:
        """Whether anybody listens."""
        return self.webhook is not None or bool(self._account and self._account.store.all(Kind.WEBHOOK_ENDPOINT))

    def _target(self, event_type: str) -> Webhook | None:
        """Give the endpoint that the stand-in was started with, else the one that was made through the API."""
        if self.webhook is not None or self._account is None:
            return self.webhook
        registered = listener(self._account, event_type)
        return Webhook(*registered) if registered else None

    def _send(self, event: Object, fate: Fate) -> None:
        if fate.drop:
            self._enqueue(event["id"], dropped=True)
            return
        event["pending_webhooks"] = 1
        self._enqueue(event["id"], fate, old_version=fate.old_version and old_version.knows(event))

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Send the events of this block to nobody: they are of a time before the endpoint was registered."""
        before, self._unheard = self._unheard, True
        try:
            yield
        finally:
            self._unheard = before

    def resend(self, event_id: str) -> None:
        """Deliver an event once more, whatever became of it. The caller has looked it up."""
        running = self._tasks.get(event_id)
        if running is None:
            self._enqueue(event_id)

    def limit_pauses(self, longest_s: float) -> None:
        """Wait no longer than this between tries from now on."""
        self._backoff = replace(self._backoff, first_s=min(self._backoff.first_s, longest_s), longest_s=longest_s)

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

    def _enqueue(self, event_id: str, fate: Fate = Fate(), *, dropped: bool = False, **more: Any) -> None:  # noqa: B008  # frozen
        delivery = {
            "event": event_id,
            "status": "failed" if dropped else "pending",
            "attempts": 0,
            "last_status": None,
            "last_error": "dropped on the way, on purpose" if dropped else None,
            **more,
        }
        if self._account is not None:  # in the file with the event itself, when the request commits
            self._account.store.put(Kind.DELIVERY, event_id, delivery)
        if not dropped:
            self._begin(delivery, fate)

    def _begin(self, delivery: Object, fate: Fate = Fate()) -> None:  # noqa: B008  # frozen
        event_id = delivery["event"]
        self._idle.clear()
        self._answered[event_id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._deliver(delivery, fate), name=f"deliver {event_id}")
        self._tasks[event_id] = task
        task.add_done_callback(lambda _: self._ended(event_id))

    def _ended(self, event_id: str) -> None:
        del self._tasks[event_id]
        self._answered.pop(event_id).set()
        self._other_ended.set()
        self._other_ended = asyncio.Event()
        if not self._tasks:
            self._idle.set()

    async def _deliver(self, delivery: Object, fate: Fate) -> None:
        """Try until the endpoint takes it, at most `attempts` times."""
        pause_s: float | None = fate.delay_s
        if fate.reorder:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._other_ended.wait(), HOLD_S)
        tries = 0  # of this run: a restart begins with short pauses again
        while pause_s is not None:
            await asyncio.sleep(pause_s)
            await self._running.wait()
            async with self._slots:
                error = await self._first_of(delivery, fate) if tries == 0 else await self._attempt(delivery)
            tries += 1
            pause_s = None if error is None else self._backoff.pause_s(tries)
            delivery["status"] = "succeeded" if error is None else "failed" if pause_s is None else "pending"
            delivery["last_error"] = error
            self._keep(delivery)
            self._answered[delivery["event"]].set()

    async def _first_of(self, delivery: Object, fate: Fate) -> str | None:
        """Send for the first time, or twice when a duplicate is to go out; taken once is taken."""
        if not fate.duplicate:
            return await self._attempt(delivery)
        if fate.together:
            errors = list(await asyncio.gather(self._attempt(delivery), self._attempt(delivery)))
        else:
            errors = [await self._attempt(delivery), await self._attempt(delivery)]
        return None if None in errors else errors[0]

    async def _attempt(self, delivery: Object) -> str | None:
        """Send once; return what went wrong, if anything did."""
        delivery["attempts"] += 1
        delivery["last_status"] = None
        session, event = self._session, self._rendered(delivery)
        webhook = self._target(str(event["type"])) if event is not None else None
        if webhook is None or session is None or event is None:
            return "no webhook endpoint is set"
        self.attempts += 1
        body = json.dumps(event, indent=2, ensure_ascii=False)
        secrets = [ROLLED_SECRET, webhook.secret] if self._faults.plan.secret_roll else [webhook.secret]
        try:
            async with session.post(
                webhook.url, data=body.encode(), headers=_headers(body, secrets), allow_redirects=False
            ) as response:
                await response.content.read(BODY_READ_LIMIT_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return type(error).__name__
        delivery["last_status"] = response.status
        if not 200 <= response.status < 300:
            return f"HTTP {response.status}"
        self.taken[delivery["event"]] = None
        return None

    def _rendered(self, delivery: Object) -> Object | None:
        """Write the body: the event as it was made, in the version that this delivery is to have."""
        if "thin" in delivery or self._account is None:
            return delivery.get("thin")
        event = self._account.store.get(Kind.EVENT, delivery["event"])
        if event is None:
            return None
        return old_version.rendered(shown(event), self._account.store) if delivery.get("old_version") else shown(event)

    def _keep(self, delivery: Object) -> None:
        if self._account is None:
            return
        if "thin" in delivery and delivery["status"] != "pending":  # no list of Stripe's v1 API shows these
            self._account.store.delete(Kind.DELIVERY, delivery["event"])
        else:
            self._account.store.put(Kind.DELIVERY, delivery["event"], delivery)
        self._account.store.commit()


def _headers(body: str, secrets: Sequence[str]) -> dict[str, str]:
    """Sign as Stripe signs, with each secret. The time is the real one: a receiver's tolerance knows no sandbox clock."""
    now = int(time.time())
    signed = [stripe.WebhookSignature.generate_signature_header(body, secret, now) for secret in secrets]
    schemes = [header.partition(",")[2] for header in signed]
    return {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Stripe-Signature": ",".join([f"t={now}", *schemes]),
    }
