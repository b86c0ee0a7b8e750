"""What the acceptance tests do as the world outside does it: over sockets, with the generated stubs and the real SDK."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import grpc
import psycopg
import stripe
from billing.v1 import checkout_pb2, entitlement_pb2
from billing.v1.billing_service_pb2_grpc import BillingServiceStub
from psycopg import sql

from tests.overheard.plugin import keep

ROOT = Path(__file__).parents[2]
DEADLINE_S = 10.0
_WAIT_S = 30.0
_LOOK_EVERY_S = 0.05  # asking a server across a socket again: nothing tells us when it has changed
Value = TypeVar("Value")


@dataclass(frozen=True)
class Sandbox:
    """A running `python -m sandbox --json`, as its one line describes it."""

    process: subprocess.Popen[str]
    addresses: Mapping[str, str]
    log: Path

    def __getitem__(self, key: str) -> str:
        """Give one of the addresses or secrets."""
        return self.addresses[key]

    def words(self) -> str:
        """Give what it said on standard error."""
        return self.log.read_text()


def launch(data: Path, *options: str, log: Path) -> subprocess.Popen[str]:
    """Start `python -m sandbox --json` over a folder; does not wait."""
    with log.open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--json", "--data", str(data), *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("COV_")},
        )


@contextmanager
def running(data: Path, *options: str, log: Path) -> Iterator[Sandbox]:
    """Give a sandbox on free ports that answers, and stop it afterwards unless that was done."""
    process = launch(data, "--ports", "0", *options, log=log)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # it gives up by itself when something does not start
        assert line, log.read_text()
        addresses = json.loads(line)
        yield Sandbox(process, addresses, log)
        _overhear(addresses)
    finally:
        stop(process)
        if (postgres := data / "postgres" / "log").exists():
            keep("postgres", postgres.read_text(errors="replace"))


def _overhear(addresses: Mapping[str, str]) -> None:
    """Keep the pages of numbers as they are at the end, for the search; a program that a test has ended has none."""
    for name in ("ops", "gateway_ops"):
        with suppress(OSError), urllib.request.urlopen(f"{addresses[name]}/metrics", timeout=DEADLINE_S) as page:  # noqa: S310 - ours
            keep("pages", page.read().decode())


def stop(process: subprocess.Popen[str]) -> int:
    """Ask with SIGTERM, and give the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    if process.stdout is not None:
        process.stdout.close()
    return code


async def eventually(ask: Callable[[], Awaitable[Value]], holds: Callable[[Value], bool]) -> Value:
    """Ask until the answer holds, for half a minute at most."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        answer = await ask()
        if holds(answer):
            return answer
        assert time.monotonic() < deadline, f"still: {answer}"
        await asyncio.sleep(_LOOK_EVERY_S)


class World:
    """A backend, a person at the hosted page, and Stripe's own hands, for one sandbox."""

    def __init__(self, addresses: Mapping[str, str], channel: grpc.aio.Channel, http: aiohttp.ClientSession) -> None:
        """Take where everything is, and connections that the caller closes."""
        self.addresses = addresses
        self.http = http
        self.billing = BillingServiceStub(channel)

    # --- A backend ---------------------------------------------------------------------------------------------------

    async def checkout(
        self, customer_id: str, plan_key: str = "pro", *, request_id: str | None = None, **fields: Any
    ) -> checkout_pb2.CheckoutSession:
        """Ask for a page to pay on."""
        request = checkout_pb2.CreateCheckoutSessionRequest(
            request_id=request_id or str(uuid.uuid4()),
            customer_id=customer_id,
            plan_key=plan_key,
            success_url="https://shop.example/account?checkout_session_id={CHECKOUT_SESSION_ID}",
            cancel_url="https://shop.example/pricing",
            **fields,
        )
        answer = await self.billing.CreateCheckoutSession(request, timeout=DEADLINE_S)
        return answer.checkout_session

    async def session(self, checkout_session_id: str) -> checkout_pb2.CheckoutSession:
        """Ask where a purchase stands."""
        request = checkout_pb2.GetCheckoutSessionRequest(checkout_session_id=checkout_session_id)
        return (await self.billing.GetCheckoutSession(request, timeout=DEADLINE_S)).checkout_session

    async def entitlements(self, customer_id: str) -> entitlement_pb2.GetEntitlementsResponse:
        """Ask what a customer may use."""
        request = entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)
        return await self.billing.GetEntitlements(request, timeout=DEADLINE_S)

    async def plans_of(self, customer_id: str) -> list[str]:
        """Ask which plans a customer has."""
        return list((await self.entitlements(customer_id)).plan_keys)

    async def until_plan(self, customer_id: str, plan_key: str) -> entitlement_pb2.GetEntitlementsResponse:
        """Wait until a customer has a plan."""
        return await eventually(lambda: self.entitlements(customer_id), lambda answer: plan_key in answer.plan_keys)

    async def until_state(self, checkout_session_id: str, state: checkout_pb2.CheckoutSession.State.ValueType) -> None:
        """Wait until a purchase has come to a state."""
        await eventually(lambda: self.session(checkout_session_id), lambda session: session.state == state)

    # --- Stripe's side -----------------------------------------------------------------------------------------------

    async def control(self, path: str, **body: Any) -> dict[str, Any]:
        """Let time, a bank or a person do something at Stripe."""
        async with self.http.post(f"{self.addresses['control']}/{path}", json=body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return answer

    async def pay(self, session: checkout_pb2.CheckoutSession, outcome: str = "paid") -> None:
        """End a checkout on its page: paid, processing or declined."""
        await self.control(f"checkout/sessions/{session.checkout_session_id}/complete", outcome=outcome)

    async def until_delivered(self) -> None:
        """Wait until no webhook is on its way."""

        async def pending() -> int:
            async with self.http.get(f"{self.addresses['control']}/webhooks") as response:
                return int((await response.json())["pending"])

        await eventually(pending, lambda count: count == 0)

    @asynccontextmanager
    async def stripe(self) -> AsyncIterator[stripe.StripeClient]:
        """Give the real SDK, pointed at the stand-in."""
        client = stripe.HTTPXClient(allow_sync_methods=False)
        try:
            yield stripe.StripeClient(
                self.addresses["api_key"], base_addresses={"api": self.addresses["stripe"]}, http_client=client
            )
        finally:
            await client.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves its hints out here

    def signed(self, body: bytes, *, at: float | None = None, secret: str | None = None) -> dict[str, str]:
        """Give the headers under which Stripe would send a body."""
        return signed(body, secret or self.addresses["webhook_secret"], at=at)

    async def post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Send the gateway a webhook, and give its answer."""
        url = f"{self.addresses['gateway']}/webhooks/stripe"
        async with self.http.post(
            url, data=io.BytesIO(body), headers={"Content-Type": "application/json", **headers}
        ) as response:
            return response.status, await response.text()

    # --- The database, only to look ----------------------------------------------------------------------------------

    def row_counts(self) -> dict[str, int]:
        """Count the rows of every table in which a webhook leaves a trace first, whatever it says.

        The others are also written in the background, by re-reads and reconciliation of what earlier tests bought.
        """
        with psycopg.connect(self.addresses["database"]) as connection:
            tables = ("stripe_events", "quarantined_events", "customers", "stripe_customers")
            counts = {}
            for table in tables:
                row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
                assert row is not None
                counts[str(table)] = int(row[0])
            return counts

    def recorded_event_ids(self) -> list[str]:
        """List the ids of the recorded events, one for each row."""
        return recorded_event_ids(self.addresses["database"])


def signed(body: bytes, secret: str, *, at: float | None = None) -> dict[str, str]:
    """Give the headers under which Stripe would send a body, by the SDK's own signing."""
    header = stripe.WebhookSignature.generate_signature_header(
        body.decode(), secret, int(time.time() if at is None else at)
    )
    return {"Stripe-Signature": header}


def recorded_event_ids(database_url: str) -> list[str]:
    """List the ids of the recorded events, one for each row."""
    with psycopg.connect(database_url) as connection:
        return [str(row[0]) for row in connection.execute("SELECT event_id FROM stripe_events")]
