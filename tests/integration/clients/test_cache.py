"""The cache of `billing_client` against a real listener that tells what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from billing.v1.billing_service_pb2 import ListPlansResponse
from billing.v1.entitlement_pb2 import Entitlement, GetEntitlementsResponse
from billing.v1.plan_pb2 import FeatureValue, Plan, PlanFeature
from billing.v1.watch_pb2 import WatchEntitlementsResponse
from billing_client import BillingClient, EntitlementCache, Options
from billing_client import cache as cache_module
from billing_client.cache import UnknownFeatureError

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.rpc.server import public_listener
from tests.integration.rpc.wire import serving
from tests.unserved import Unserved

BOUND_S = 20.0
KIND = WatchEntitlementsResponse


def number(feature_key: str, value: int) -> PlanFeature:
    return PlanFeature(feature_key=feature_key, value=FeatureValue(integer_value=value))


def plans(projects: int, version: str = "v1") -> ListPlansResponse:
    free = Plan(plan_key="free", is_default=True, features=[number("projects", projects)])
    return ListPlansResponse(plans=[free], catalog_version=version)


def told(customer_id: str, *features: PlanFeature, version: str = "v1") -> WatchEntitlementsResponse:
    lines = [Entitlement(feature_key=one.feature_key, value=one.value) for one in features]
    told = GetEntitlementsResponse(customer_id=customer_id, revision=1, entitlements=lines, catalog_version=version)
    return KIND(kind=KIND.KIND_SNAPSHOT, entitlements=told)


class Teller(Unserved):
    """Tells a snapshot on each stream, and breaks the stream when the test says so."""

    def __init__(self, *snapshot: WatchEntitlementsResponse, listed: Iterable[ListPlansResponse] = ()) -> None:
        self.snapshot = snapshot
        self.listed = list(listed) or [plans(3)]  # one answer after the other, the last of them for ever
        self.streams = 0
        self.breaks = asyncio.Event()
        self.then: asyncio.Event | None = None  # when it makes progress

    async def ListPlans(self, request: Any, context: Any) -> ListPlansResponse:  # noqa: ARG002, N802 - the contract's name
        """Give the next answer."""
        return self.listed.pop(0) if len(self.listed) > 1 else self.listed[0]

    async def WatchEntitlements(self, request: Any, context: Any) -> AsyncIterator[WatchEntitlementsResponse]:  # noqa: ARG002, N802 - the contract's name
        """Tell the snapshot; then nothing."""
        self.streams += 1
        yield KIND(kind=KIND.KIND_SNAPSHOT_BEGIN)
        for message in self.snapshot:
            yield message
        yield KIND(kind=KIND.KIND_SNAPSHOT_END, cursor="here")
        if self.then is not None:
            await self.then.wait()
            yield KIND(kind=KIND.KIND_PROGRESS, cursor="there")
        await self.breaks.wait()
        self.breaks.clear()
        raise DatabaseUnavailableError


@asynccontextmanager
async def fed(teller: Teller, **options: Any) -> AsyncIterator[EntitlementCache]:
    """Give a cache that has its first snapshot."""
    async with (
        serving(public_listener(teller)) as wire,
        BillingClient(Options([str(wire.address)], **options)) as client,
        EntitlementCache(client) as cache,
    ):
        async with asyncio.timeout(BOUND_S):
            await cache.ready()
        yield cache


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that comes across a socket."""
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.01)


async def test_a_cache_outlives_a_token_that_cannot_be_read_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that reads a file, which is gone while it is rotated and the stream reconnects."""
    monkeypatch.setattr(cache_module, "AGAIN_S", 0.05)
    gone, failures = False, 0

    def token() -> str:
        nonlocal failures
        if gone:
            failures += 1
            raise FileNotFoundError("/run/secrets/ann")
        return "a-token"

    teller = Teller(told("ann", number("projects", 50)))
    async with fed(teller, token=token) as cache:
        gone = True
        teller.breaks.set()
        await eventually(lambda: failures > 1)
        gone = False
        await eventually(lambda: teller.streams == 2)
        assert cache.check("ann", "projects").value == 50
    assert "FileNotFoundError" in caplog.text  # whoever runs it hears of it
    assert "/run/secrets/ann" not in caplog.text


async def test_a_token_that_cannot_be_read_at_first_is_what_ready_raises() -> None:
    """As with a refused one: nothing was heard yet, and whoever starts the program is to see why."""

    def token() -> str:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        async with fed(Teller(), token=token):
            pass


async def test_a_feature_that_only_grants_give_is_off_for_strangers_and_no_mistake() -> None:
    """It is in no plan, but in the catalog. What is not in that is a mistake, of a stranger as of one who is known."""
    beta = PlanFeature(feature_key="beta", value=FeatureValue(bool_value=True))
    off = PlanFeature(feature_key="beta", value=FeatureValue(bool_value=False))
    listed = ListPlansResponse(
        plans=plans(3).plans, catalog_version="v1", default_features=[number("projects", 3), off]
    )
    async with fed(Teller(told("ann", number("projects", 50), beta), listed=[listed])) as cache:
        assert cache.check("ann", "beta").allowed
        stranger = cache.check("stranger", "beta")
        assert (stranger.allowed, stranger.value) == (False, False)
        assert cache.check("stranger", "projects").value == 3
        for customer_id in ("ann", "stranger"):
            with pytest.raises(UnknownFeatureError):
                cache.check(customer_id, "telepathy")


async def test_strangers_of_an_older_service_have_what_its_plans_name() -> None:
    """It does not say what only grants give."""
    pro = Plan(plan_key="pro", features=[number("projects", 50), number("seats", 7)])
    listed = ListPlansResponse(plans=[*plans(3).plans, pro], catalog_version="v1")
    async with fed(Teller(listed=[listed])) as cache:
        assert [cache.check("stranger", key).value for key in ("projects", "seats")] == [3, 0]


async def test_strangers_have_the_catalog_of_the_snapshot() -> None:
    """A rolling restart with another catalog: the snapshot is the new process's, and the first to list its plans is the old one."""
    new = told("ann", number("projects", 1), version="v2")
    async with fed(Teller(new, listed=[plans(3, "v1"), plans(3, "v1"), plans(1, "v2"), plans(3, "v1")])) as cache:
        assert (cache.check("ann", "projects").value, cache.check("stranger", "projects").value) == (1, 1)


async def test_strangers_get_the_catalog_of_the_snapshot_with_the_next_progress_where_nobody_had_it() -> None:
    """The watch is not held up by it: what is told counts at once."""
    teller = Teller(told("ann", number("projects", 1), version="v2"), listed=[plans(3, "v1")])
    teller.then = asyncio.Event()
    async with fed(teller) as cache:
        assert (cache.check("ann", "projects").value, cache.check("stranger", "projects").value) == (1, 3)
        teller.listed = [plans(1, "v2")]
        teller.then.set()
        await eventually(lambda: cache.check("stranger", "projects").value == 1)


async def test_a_snapshot_of_nobody_takes_the_catalog_that_is_listed() -> None:
    async with fed(Teller(listed=[plans(3, "v1")])) as cache:
        assert cache.check("stranger", "projects").value == 3
