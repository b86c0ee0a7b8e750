"""More than the service takes at once: it refuses early, stays alive and small, and goes on as soon as it can."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc
import psycopg
import pytest
from aiohttp import ClientSession, TCPConnector
from billing.v1 import entitlement_pb2

from billing_service.rpc.guard import CALLS_OF_ONE
from tests import stripe_events
from tests.acceptance.world import World, eventually
from webhook_gateway.inflight import MAX_IN_FLIGHT

pytestmark = pytest.mark.slow

BEYOND = 200  # how many more there are than the programs take at once
REFUSALS = 200  # while nothing can be done
MOST_BYTES = 512 * 1024 * 1024  # what Compose and Kubernetes give a program
PAUSE_S = 0.2  # before one comes again; without it the flood would only measure itself
LIMIT_S = 180  # for anything that a test waits for
_OVERLOADED = re.compile(r'^gateway_answers_total\{answer="overloaded"\} (\S+)$', re.MULTILINE)
_RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)


class Flood:
    """So many who come again at once, whatever they are told, and what they were told."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self._ebbing = asyncio.Event()

    async def rise(self, count: int, ask: Callable[[int], Awaitable[str]]) -> None:
        """Have so many come until `ebb`."""
        await asyncio.gather(*(self._come(number, ask) for number in range(count)))

    def ebb(self) -> None:
        """Have nobody come again."""
        self._ebbing.set()

    async def _come(self, number: int, ask: Callable[[int], Awaitable[str]]) -> None:
        while not self._ebbing.is_set():
            self.told[await ask(number)] += 1
            await asyncio.sleep(PAUSE_S)


async def stand_still(
    world: World, flood: Flood, count: int, ask: Callable[[int], Awaitable[str]], refused: str, program: tuple[str, str]
) -> int:
    """Flood while the database stands still, until enough were refused; give the most memory that the program had.

    It answers whoever looks after it all the while: `program` has where that is asked, and where its numbers are.
    """
    alive, numbers = program
    most = 0
    with psycopg.connect(world.addresses["database"]) as holder:
        holder.execute("LOCK customers, stripe_events IN ACCESS EXCLUSIVE MODE")
        rising = asyncio.create_task(flood.rise(count, ask))
        try:
            async with asyncio.timeout(LIMIT_S):
                while flood.told[refused] < REFUSALS:
                    async with world.http.get(f"{world.addresses[alive]}/livez") as response:
                        assert response.status == 200
                    async with world.http.get(f"{world.addresses[numbers]}/metrics") as response:
                        found = _RESIDENT.search(await response.text())
                    assert found is not None
                    most = max(most, int(float(found[1])))
        except TimeoutError:
            raise AssertionError(f"only {flood.told}") from None
        finally:
            flood.ebb()
    async with asyncio.timeout(LIMIT_S):
        await rising
    return most


async def test_calls_beyond_the_bound_are_refused_at_once_and_the_service_goes_on(world: World) -> None:
    """One caller sends more reads than he may have in flight, while the database stands still.

    What is beyond is refused and told to come again; the service stays alive and within the memory that it is given, and
    answers when the database moves on.
    """
    request = entitlement_pb2.GetEntitlementsRequest(customer_id="nobody")

    async def read(_number: int) -> str:
        try:
            await world.billing.GetEntitlements(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    flood = Flood()
    most = await stand_still(world, flood, CALLS_OF_ONE + BEYOND, read, "RESOURCE_EXHAUSTED", ("ops", "ops"))
    assert most < MOST_BYTES
    assert set(flood.told) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert await eventually(lambda: read(0), lambda told: told == "OK")


async def overloaded(world: World) -> float:
    """Give how many webhooks the gateway counts as refused for want of room, its own or the service's."""
    async with world.http.get(f"{world.addresses['gateway_ops']}/metrics") as response:
        found = _OVERLOADED.search(await response.text())
    assert found is not None
    return float(found[1])


async def test_webhooks_beyond_the_bound_are_refused_at_once_and_none_that_was_acknowledged_is_lost(
    world: World,
) -> None:
    """More posts than the gateway holds at once, again and again, before a service that cannot write.

    What is beyond is refused at once, counted, and told when to come again, what is held is refused when its time is over; 200 is said of nothing
    that is not in the database, and the gateway goes on when the database does.
    """
    acknowledged: set[str] = set()
    untold: list[int] = []  # refusals that do not say when to come again

    def name_of(number: int) -> str:
        return f"evt_flood_{number}"

    async with ClientSession(connector=TCPConnector(limit=0)) as senders:

        async def post(number: int) -> str:
            event = stripe_events.event(
                "customer.created", {"id": f"cus_flood_{number}", "object": "customer"}, event_id=name_of(number)
            )
            url = f"{world.addresses['gateway']}/webhooks/stripe"
            headers = {"Content-Type": "application/json", **world.signed(event)}
            async with senders.post(url, data=event, headers=headers) as response:
                said = await response.json()
                if response.status == 200:
                    acknowledged.add(name_of(number))
                    return "200"
                if int(response.headers.get("Retry-After", 0)) <= 0:
                    untold.append(response.status)
                return f"{response.status} {said['error']['code']}"

        flood, counted = Flood(), await overloaded(world)
        gateway = ("gateway", "gateway_ops")
        most = await stand_still(world, flood, MAX_IN_FLIGHT + BEYOND, post, "503 overloaded", gateway)
        assert set(flood.told) <= {"200", "503 overloaded", "503 not_available"}
        assert untold == []
        assert await overloaded(world) - counted >= flood.told["503 overloaded"], "each of them is counted"
        assert most < MOST_BYTES
        assert acknowledged <= set(world.recorded_event_ids())
        assert await eventually(lambda: post(MAX_IN_FLIGHT + BEYOND), lambda told: told == "200")
    assert acknowledged <= set(world.recorded_event_ids())
