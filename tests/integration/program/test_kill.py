"""kill -9 anywhere: after a restart and a retry, exactly one session, nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections.abc import AsyncIterator

import aiohttp
import grpc
import psycopg
import pytest
from billing.internal.v1 import fulfillment_service_pb2 as fulfillment
from billing.v1 import checkout_pb2, entitlement_pb2

from sandbox.stripe.app import StandInStripe
from tests.integration.program.conftest import BOUND_S, KEY, ROOT, Process, serving
from tests.stripe_events import purchase
from tests.stripe_proxy import StripeProxy, held, proxied

pytestmark = pytest.mark.slow

REQUEST = checkout_pb2.CreateCheckoutSessionRequest(
    request_id="request-1",
    customer_id="ann",
    plan_key="pro",
    success_url="https://shop.example/done",
    cancel_url="https://shop.example/plans",
)


@pytest.fixture
async def proxy() -> AsyncIterator[StripeProxy]:
    stand_in = StandInStripe(KEY)
    url = await stand_in.start()
    stand_in.seed(tomllib.loads((ROOT / "catalog.toml").read_text()))
    async with proxied(url) as one:
        yield one
    await stand_in.stop()


async def sessions(proxy: StripeProxy) -> list[str]:
    """Give the ids of every session at Stripe."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        session.get(f"{proxy.url}/v1/checkout/sessions") as answer,
    ):
        return [made["id"] for made in (await answer.json())["data"]]


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/checkout/sessions"])
async def test_killed_between_the_phases_of_a_purchase(database_url: str, proxy: StripeProxy, path: str) -> None:
    """Stripe has done it and its answer is never heard: the retry finds it, and makes no second one."""
    arrived = asyncio.Event()
    proxy.next("POST", path, held(arrived, asyncio.Event()))
    async with serving(database_url, proxy.url) as first:
        call = asyncio.ensure_future(first.billing.CreateCheckoutSession(REQUEST, timeout=BOUND_S))
        async with asyncio.timeout(BOUND_S):
            await arrived.wait()
        await first.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    async with serving(database_url, proxy.url) as second:
        answer = await second.billing.CreateCheckoutSession(REQUEST, timeout=BOUND_S)
        assert [answer.checkout_session.checkout_session_id] == await sessions(proxy)


async def test_killed_in_the_middle_of_fulfill(database_url: str, proxy: StripeProxy) -> None:
    """The transaction stands open, its event ids inserted: nothing of it is there, and sending again has one effect."""
    events = [fulfillment.VerifiedEvent(payload=body) for body in purchase("ann", int(time.time()))]
    batch = fulfillment.FulfillRequest(events=events)
    async with serving(database_url, proxy.url) as first:
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
            call = asyncio.ensure_future(first.fulfillment.Fulfill(batch, metadata=first.metadata, timeout=BOUND_S))
            await _blocked(database_url)
            await first.kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT count(*) FROM stripe_events").fetchone() == (0,)
    async with serving(database_url, proxy.url) as second:
        outcomes = [await _fulfill(second, batch) for _ in range(2)]
        assert outcomes == [
            ["OUTCOME_APPLIED"] * 4,
            ["OUTCOME_DUPLICATE"] * 4,
        ]
        answer = await second.billing.GetEntitlements(
            entitlement_pb2.GetEntitlementsRequest(customer_id="ann"), timeout=BOUND_S
        )
        assert (list(answer.plan_keys), answer.revision) == (["pro"], 1)


async def _fulfill(process: Process, batch: fulfillment.FulfillRequest) -> list[str]:
    answer = await process.fulfillment.Fulfill(batch, metadata=process.metadata, timeout=BOUND_S)
    return [fulfillment.FulfillResult.Outcome.Name(result.outcome) for result in answer.results]


async def _blocked(database_url: str) -> None:
    """Wait until a transaction of the service waits for our lock, its first statements behind it."""
    async with asyncio.timeout(BOUND_S), await psycopg.AsyncConnection.connect(database_url, autocommit=True) as watch:
        while True:
            found = await watch.execute(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND xact_start IS NOT NULL AND datname = current_database()"
            )
            if await found.fetchone():
                return
