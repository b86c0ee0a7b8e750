"""A stand-in Stripe, the real SDK against it, and a real HTTP receiver that checks every signature with the SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web

from sandbox.stripe.app import StandInStripe
from sandbox.stripe.deliveries import Backoff

API_KEY = "sk_test_of_the_tests"
SECRET = "whsec_of_the_tests"
SUCCESS_URL = "https://shop.example/paid?session={CHECKOUT_SESSION_ID}"
CANCEL_URL = "https://shop.example/plans"
CATALOG = {
    "plans": {
        "free": {"name": "Free", "mode": "free"},
        "pro": {
            "name": "Pro",
            "description": "For people who ship.",
            "mode": "subscription",
            "prices": [
                {"key": "monthly", "lookup_key": "pro_monthly", "text": "€12 per month"},
                {"key": "yearly", "lookup_key": "pro_yearly", "text": "€1,200.50 per year"},
            ],
        },
        "pass": {
            "name": "Pass",
            "mode": "payment",
            "prices": [{"key": "once", "lookup_key": "pass", "text": "$25 once"}],
        },
    }
}


@dataclass
class Clock:
    """The account's clock, which a test sets forward."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Tell the time, in seconds since the epoch."""
        return self.now


@dataclass
class Receiver:
    """A webhook endpoint: verifies, keeps what came, and answers what the test wants."""

    url: str = ""
    refuse_next: int = 0  # so many deliveries are answered 503
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: answers wait
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: web.Request) -> web.Response:
        """Take one delivery."""
        body = await request.read()
        stripe.WebhookSignature.verify_header(body, request.headers["Stripe-Signature"], SECRET, tolerance=300)
        self.arrived.set()
        await self.gate.wait()
        if self.refuse_next > 0:
            self.refuse_next -= 1
            return web.Response(status=503)
        self.events.append(json.loads(body))
        self.headers.append(dict(request.headers))
        return web.Response()

    def types(self) -> list[str]:
        """Tell the types of what was taken, in order of their arrival."""
        return [event["type"] for event in self.events]

    def last(self, event_type: str) -> dict[str, Any]:
        """Find the last event of a type."""
        return next(event for event in reversed(self.events) if event["type"] == event_type)


@dataclass
class World:
    """A stand-in that runs, seeded, with a receiver for its events."""

    stand_in: StandInStripe
    url: str
    client: Any  # a stripe.StripeClient, whose types forbid much of what the tests send on purpose
    http: aiohttp.ClientSession
    clock: Clock
    receiver: Receiver

    async def price(self, lookup_key: str) -> str:
        """Resolve a lookup key as the service does."""
        found = await self.client.v1.prices.list_async({"lookup_keys": [lookup_key], "active": True})
        return str(found.data[0].id)

    async def customer(self) -> str:
        """Make a customer."""
        made = await self.client.v1.customers.create_async(
            {"email": "ada@example.com", "metadata": {"billing_customer_id": "u_1"}}
        )
        return str(made.id)

    async def session_params(self, lookup_key: str = "pro_monthly", **more: Any) -> Any:
        """Build what the service sends for a purchase."""
        mode = "payment" if lookup_key == "pass" else "subscription"
        data = "payment_intent_data" if mode == "payment" else "subscription_data"
        return {
            "mode": mode,
            "customer": await self.customer(),
            "line_items": [{"price": await self.price(lookup_key), "quantity": 1}],
            "success_url": SUCCESS_URL,
            "cancel_url": CANCEL_URL,
            "client_reference_id": "u_1",
            "metadata": {"billing_plan_key": "plan"},
            data: {"metadata": {"billing_plan_key": "plan"}},
            **more,
        }

    async def session(self, lookup_key: str = "pro_monthly", **more: Any) -> Any:
        """Open a session."""
        return await self.client.v1.checkout.sessions.create_async(await self.session_params(lookup_key, **more))

    async def reread(self, session_id: str, *expand: str) -> Any:
        """Read a session again."""
        return await self.client.v1.checkout.sessions.retrieve_async(session_id, {"expand": list(expand)})

    async def control(self, path: str, *, expect: int = 200, **body: Any) -> Any:
        """Use a control."""
        async with self.http.post(f"{self.url}/_control{path}", json=body) as response:
            answer = await response.json()
            assert response.status == expect, answer
            return answer

    async def bought(self, lookup_key: str = "pro_monthly", outcome: str = "paid", **more: Any) -> Any:
        """Open a session, complete it with this outcome, and read it again."""
        session = await self.session(lookup_key, **more)
        await self.control(f"/checkout/sessions/{session.id}/complete", outcome=outcome)
        return await self.reread(session.id)

    async def delivered(self) -> None:
        """Wait until every event has arrived."""
        await self.stand_in.deliveries.settled()


MakeStandIn = Callable[..., Awaitable[StandInStripe]]


@pytest.fixture
async def make_stand_in() -> AsyncIterator[MakeStandIn]:
    """Start stand-ins that stop with the test; a stopped one may be stopped again."""
    started: list[StandInStripe] = []

    async def make(state_path: Path | None = None, **options: Any) -> StandInStripe:
        options.setdefault("backoff", Backoff(first_s=0.001, longest_s=0.01, attempts=200))
        stand_in = StandInStripe(API_KEY, state_path=state_path, **options)
        started.append(stand_in)
        return stand_in

    yield make
    for stand_in in started:
        await stand_in.stop()


def open_client(url: str, key: str = API_KEY) -> tuple[stripe.StripeClient, stripe.HTTPXClient]:
    """Make the SDK's client as the service makes its own: no retries of its own, so that tests see every answer."""
    transport = stripe.HTTPXClient()
    return stripe.StripeClient(key, base_addresses={"api": url}, http_client=transport), transport


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook endpoint that listens."""
    endpoint = Receiver()
    endpoint.gate.set()
    app = web.Application()
    app.router.add_post("/hook", endpoint.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield endpoint
    endpoint.gate.set()
    await runner.cleanup()


@pytest.fixture(autouse=True)
def quiet_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the SDK from writing its telemetry into the home folder."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


@pytest.fixture
async def world(make_stand_in: MakeStandIn, receiver: Receiver) -> AsyncIterator[World]:
    """A seeded stand-in that remembers nothing, and everything around it."""
    clock = Clock()
    stand_in = await make_stand_in(now=clock)
    url = await stand_in.start()
    stand_in.seed(CATALOG)
    stand_in.set_webhook(receiver.url, SECRET)
    client, transport = open_client(url)
    async with aiohttp.ClientSession() as http:
        yield World(stand_in, url, client, http, clock, receiver)
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
