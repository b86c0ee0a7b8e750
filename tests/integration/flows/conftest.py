"""The flows over a real database, with a clock that tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import pytest

from billing_service.domain.catalog import Catalog
from billing_service.domain.entitlement import Entitlements
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.shop import Shop, opened
from tests.integration.flows.subscriber import Clock, Subscriber, stand_in, subscriber
from tests.stripe_events import DEPLOYMENT, START

NOWHERE = "http://127.0.0.1:9"  # no call of these tests goes to Stripe; the discard port would refuse one


class Service:
    """One process's worth of flows: a writer, and a reader at a time that the test sets."""

    def __init__(self, database: Database, stripe: StripeApi, catalog: Catalog = CATALOG) -> None:
        self.database = database
        self.stripe = stripe
        self.now = datetime.fromtimestamp(START + 60, UTC)
        prices = self.prices = Prices(database, stripe, catalog)
        self.fulfill = Fulfill(database, prices, DEPLOYMENT, lambda: self.now)
        self.read = ReadEntitlements(database, prices, lambda: self.now)

    async def outcomes(self, *payloads: bytes) -> list[str]:
        """Fulfil a batch and give the outcomes."""
        return [result.outcome.value for result in await self.fulfill(payloads)]

    async def value(self, customer_id: str, feature_key: str) -> object:
        """Give what a customer may use of a feature now."""
        return value_of(await self.read(customer_id), feature_key)


def value_of(answer: Entitlements, feature_key: str) -> object:
    """Give the value of one feature of an answer."""
    return next(e.value for e in answer.entitlements if e.feature_key == feature_key)


@asynccontextmanager
async def running(database_url: str, catalog: Catalog = CATALOG) -> AsyncIterator[Service]:
    """Run the flows as one process would, with a pool and a writer of their own."""
    async with AsyncExitStack() as stack:
        database = Database(database_url)
        stack.push_async_callback(database.close)
        stripe = await stack.enter_async_context(StripeApi("sk_test_x", NOWHERE))
        service = Service(database, stripe, catalog)
        writer = asyncio.create_task(service.fulfill.run())
        stack.push_async_callback(lambda: writer)
        stack.push_async_callback(service.fulfill.close)
        yield service


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """One process."""
    async with running(database_url) as one:
        yield one


@pytest.fixture
async def other_service(database_url: str) -> AsyncIterator[Service]:
    """Another process on the same database."""
    async with running(database_url) as one:
        yield one


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stripe_url(clock: Clock) -> AsyncIterator[str]:
    async with stand_in(clock) as url:
        yield url


@pytest.fixture
async def ann(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Subscriber]:
    async with subscriber(database_url, stripe_url, clock) as one:
        yield one


@pytest.fixture
async def shop(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Shop]:
    async with opened(database_url, stripe_url, clock) as one:
        yield one
