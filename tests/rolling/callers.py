"""Backends that go on calling whatever is restarted, with the documented client; and people who buy meanwhile."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from random import Random

import aiohttp
from billing.v1 import checkout_pb2
from billing.v1.entitlement_pb2 import CheckEntitlementRequest, GetEntitlementsRequest
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse
from billing_client import BillingClient
from billing_client.errors import BillingError

READERS = 32
TIMEOUT = timedelta(seconds=20)
PURCHASE_PAUSE_S = 0.2
MAX_FAILURES_KEPT = 20
KIND = WatchEntitlementsResponse


class Callers:
    """Everybody who calls, and what became of it."""

    def __init__(
        self, client: BillingClient, http: aiohttp.ClientSession, control: str, rate: float, seed: int
    ) -> None:
        """Take the client, what pays at Stripe, and how many reads to make a second."""
        self._pause_s = READERS / rate
        self._client, self._http, self._control = client, http, control
        self._random = Random(seed)
        self._stopping = False
        self.calls: Counter[str] = Counter()
        self.failures: list[str] = []
        self.failed = 0
        self.bought: list[str] = []  # customers whose purchase is through
        self.slowest_s = 0.0
        self.watched: dict[str, tuple[str, ...]] = {}  # plans by customer, as the watch told
        self.watch_faults: list[str] = []
        self._revisions: dict[str, int] = {}

    async def run(self) -> None:
        """Call until `stop`; what was begun is ended."""
        await asyncio.gather(*(self._read(number) for number in range(READERS)), self._buy())

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    async def watch(self) -> None:
        """Follow every customer, for ever, strict about gaps and repeats."""
        async for message in self._client.watch_entitlements(WatchEntitlementsRequest()):
            if not message.HasField("entitlements"):
                continue
            told = message.entitlements
            before = self._revisions.get(told.customer_id, 0)
            if message.kind == KIND.KIND_CHANGE and told.revision != before + 1:
                self.watch_faults.append(f"{told.customer_id}: {before} -> {told.revision}")
            self._revisions[told.customer_id] = told.revision
            self.watched[told.customer_id] = tuple(told.plan_keys)

    async def _read(self, number: int) -> None:
        """Read and check in turn, at a steady pace: what takes longer is not made up for by fewer calls."""
        due = time.monotonic() + number * self._pause_s / READERS
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += self._pause_s
            customer = self._random.choice(self.bought) if self.bought else "nobody"
            if self._random.random() < 0.5:
                await self._call("GetEntitlements", self._get(customer))
            else:
                await self._call("CheckEntitlement", self._check(customer))

    async def _get(self, customer: str) -> None:
        answer = await self._client.get_entitlements(GetEntitlementsRequest(customer_id=customer), timeout=TIMEOUT)
        wanted = ["free"] if customer == "nobody" else ["pro"]
        if list(answer.plan_keys) != wanted:
            self._fail(f"{customer} has {list(answer.plan_keys)}")

    async def _check(self, customer: str) -> None:
        request = CheckEntitlementRequest(customer_id=customer, feature_key="api_access")
        answer = await self._client.check_entitlement(request, timeout=TIMEOUT)
        if answer.allowed is not (customer != "nobody"):
            self._fail(f"{customer} is told {answer.allowed}")

    async def _buy(self) -> None:
        """Buy for one customer after the other: a session, the payment, and a read that waits for it."""
        number = 0
        while not self._stopping:
            customer = f"buyer-{number}"
            number += 1
            await self._call("purchase", self._purchase(customer))
            await asyncio.sleep(PURCHASE_PAUSE_S)

    async def _purchase(self, customer: str) -> None:
        created = await self._client.create_checkout_session(
            checkout_pb2.CreateCheckoutSessionRequest(
                request_id=str(uuid.uuid4()),
                customer_id=customer,
                plan_key="pro",
                success_url="https://shop.example/done",
                cancel_url="https://shop.example/pricing",
            ),
            timeout=TIMEOUT,
        )
        session = created.checkout_session.checkout_session_id
        url = f"{self._control}/checkout/sessions/{session}/complete"
        async with self._http.post(url, json={"outcome": "paid"}) as answer:
            if answer.status != 200:
                self._fail(f"the stand-in took no payment of {customer}: {answer.status}")
        request = GetEntitlementsRequest(customer_id=customer, after_checkout_session_id=session)
        told = await self._client.get_entitlements(request, timeout=TIMEOUT)
        if list(told.plan_keys) != ["pro"]:
            self._fail(f"{customer} paid and has {list(told.plan_keys)}")
        self.bought.append(customer)

    async def _call(self, what: str, call: Awaitable[None]) -> None:
        began = time.monotonic()
        self.calls[what] += 1
        try:
            await call
        except BillingError as error:
            self._fail(f"{what}: {error.code.name} {error}")
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def _fail(self, words: str) -> None:
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(words)
