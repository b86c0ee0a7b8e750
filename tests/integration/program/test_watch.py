"""A watch that survives: both server processes and the clients are killed, and every view still equals the database."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random

import grpc
import pytest
from billing.internal.v1 import fulfillment_service_pb2
from billing.v1.entitlement_pb2 import GetEntitlementsRequest
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse
from billing_client import BillingClient, Closed, EntitlementCache, LastKnown, Open, Options, SyncEntitlementCache
from billing_client.cache import NotWatchedError, UnknownFeatureError

from tests.integration.program.conftest import BOUND_S, Process, serving
from tests.stripe_events import event, purchase, subscription

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"
NOW = int(time.time())
KIND = WatchEntitlementsResponse


def free_ports(count: int) -> Sequence[int]:
    """Find ports that are free now."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


async def fulfil(process: Process, *bodies: bytes) -> None:
    """Have a process apply events."""
    events = [fulfillment_service_pb2.VerifiedEvent(payload=body) for body in bodies]
    request = fulfillment_service_pb2.FulfillRequest(events=events)
    await process.fulfillment.Fulfill(request, metadata=process.metadata, timeout=BOUND_S)


class View:
    """What a caller knows, strict about gaps and repeats; it outlives the client that feeds it."""

    def __init__(self) -> None:
        self.revisions: dict[str, int] = {}
        self.plans: dict[str, tuple[str, ...]] = {}
        self.cursor = ""

    def shown(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Give revision and plans of everybody."""
        return {name: (revision, self.plans[name]) for name, revision in self.revisions.items()}

    async def follow(self, options: Options) -> None:
        """Watch from the last cursor, for ever."""
        async with BillingClient(options) as client:
            async for message in client.watch_entitlements(WatchEntitlementsRequest(cursor=self.cursor)):
                self._take(message)

    def _take(self, message: WatchEntitlementsResponse) -> None:
        if message.kind == KIND.KIND_SNAPSHOT_BEGIN:
            self.revisions.clear()
            self.plans.clear()
            self.cursor = ""
        if message.HasField("entitlements"):
            told = message.entitlements
            if message.kind == KIND.KIND_CHANGE:
                assert told.revision == self.revisions.get(told.customer_id, 0) + 1
            self.revisions[told.customer_id] = told.revision
            self.plans[told.customer_id] = tuple(told.plan_keys)
        self.cursor = message.cursor or self.cursor


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[Process, Process]]:
    """Two processes on one database."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(serving(database_url, NOWHERE))
        other = await stack.enter_async_context(serving(database_url, NOWHERE))
        yield one, other


def ended(name: str) -> bytes:
    """Give the end of a customer's subscription."""
    return event("customer.subscription.deleted", subscription(name, "canceled"), created=NOW + 9)


async def answers(process: Process, names: Sequence[str]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Give what a process answers of customers: revision and plans."""
    found = {}
    for name in names:
        one = await process.billing.GetEntitlements(GetEntitlementsRequest(customer_id=name), timeout=BOUND_S)
        found[name] = (one.revision, tuple(one.plan_keys))
    return found


async def eventually(holds: object) -> None:
    """Wait until something holds that comes across a socket."""
    assert callable(holds)
    async with asyncio.timeout(BOUND_S):
        while not holds():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.01)


async def test_watches_survive_the_death_of_servers_and_clients(database_url: str) -> None:
    """Two processes are killed and started again in turn while they write, and a client too, which goes on from its cursor."""
    ports, draw = free_ports(2), Random(3)
    options = Options([f"127.0.0.1:{port}" for port in ports])
    names = [f"guest{number}" for number in range(48)]
    steady, killed = View(), View()
    following = asyncio.create_task(steady.follow(options))
    client = asyncio.create_task(killed.follow(options))
    for turn in range(4):
        async with (
            serving(database_url, NOWHERE, ports[turn % 2]) as dying,
            serving(database_url, NOWHERE, ports[1 - turn % 2]) as staying,
        ):
            mine = names[turn::4]
            bodies = [body for name in mine for body in purchase(name, NOW)]
            draw.shuffle(bodies)
            await fulfil(dying, *bodies[: len(bodies) // 2])
            await dying.kill()
            client.cancel()
            await fulfil(staying, *bodies[len(bodies) // 2 :])
            await asyncio.wait({client})
            client = asyncio.create_task(killed.follow(options))
            await fulfil(staying, *(ended(name) for name in mine[::2]))
            if turn == 3:
                wanted = await answers(staying, names)
                for view in (steady, killed):
                    await eventually(lambda view=view, wanted=wanted: view.shown() == wanted)
    for task in (following, client):
        assert not task.done()
        task.cancel()


async def test_a_cached_check_shows_a_change_and_falls_back_by_policy(pair: tuple[Process, Process]) -> None:
    one, other = pair
    policies: dict[str, Closed | Open | LastKnown] = {
        "api_access": Open(),
        "export": Closed(),
        "projects": LastKnown(timedelta(hours=1)),
    }
    client = BillingClient(Options([one.grpc_address]))
    cache = EntitlementCache(client, policies=policies, stale_after=timedelta(seconds=2))
    async with client, cache:
        async with asyncio.timeout(BOUND_S):
            await cache.ready()
        stranger = cache.check("ann", "projects")
        assert (stranger.allowed, stranger.fell_back, stranger.revision) == (True, False, 0)
        assert not cache.check("ann", "api_access").allowed
        await fulfil(other, *purchase("ann", NOW))
        await eventually(lambda: cache.check("ann", "projects").value == 50)
        known = cache.check("ann", "projects")
        assert (known.value, known.revision >= 1, known.age < timedelta(seconds=BOUND_S)) == (50, True, True)
        with pytest.raises(UnknownFeatureError):
            cache.check("ann", "telepathy")
        await fulfil(other, ended("ann"))
        await eventually(lambda: cache.check("ann", "projects").value != 50)
        last = cache.check("ann", "projects")
        assert stranger.age > known.age > last.age  # one that was kept grows old
        await one.kill()
        await eventually(lambda: cache.check("ann", "projects").fell_back)
        assert (cache.check("ann", "projects").value, cache.check("ann", "projects").allowed) == (last.value, True)
        assert (cache.check("ann", "api_access").allowed, cache.check("ann", "export").allowed) == (True, False)
        assert cache.check("ann", "projects").age > timedelta(seconds=1)


async def test_a_cache_that_never_heard_anything_answers_by_policy_and_says_so() -> None:
    """Whatever was to be known last: nothing is."""
    policies: dict[str, Closed | Open | LastKnown] = {"projects": LastKnown(timedelta(days=999), then=Open(3))}
    async with BillingClient(Options(["127.0.0.1:9"])) as client, EntitlementCache(client, policies=policies) as cache:
        for feature_key, allowed in (("projects", True), ("export", False)):
            one = cache.check("ann", feature_key)
            assert (one.allowed, one.fell_back, one.age) == (allowed, True, timedelta.max)


async def test_threads_share_one_cache(pair: tuple[Process, Process]) -> None:
    one, _ = pair
    await fulfil(one, *purchase("ann", NOW))

    def work() -> tuple[object, ...]:
        with SyncEntitlementCache(Options([one.grpc_address]), customer_ids=["ann"]) as cache:
            cache.ready(timedelta(seconds=BOUND_S))
            with pytest.raises(NotWatchedError):
                cache.check("bob", "projects")
            return cache.check("ann", "projects").value, cache.check("ann", "projects").fell_back

    assert await asyncio.to_thread(work) == (50, False)


async def test_a_stopping_server_ends_its_streams_at_once(pair: tuple[Process, Process]) -> None:
    """With UNAVAILABLE, so that a watcher goes on elsewhere; the stop does not wait for streams, which have no end."""
    one, _ = pair
    stream = one.billing.WatchEntitlements(WatchEntitlementsRequest())
    messages = aiter(stream)
    assert (await anext(messages)).kind == KIND.KIND_SNAPSHOT_BEGIN
    one.terminate()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(rest(messages), BOUND_S)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def rest(messages: AsyncIterator[WatchEntitlementsResponse]) -> None:
    """Read to the end."""
    async for _ in messages:
        pass
