"""Programs that die under load: what was acknowledged is there, and what is sent again has one effect."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import aiohttp
import grpc
import pytest

from sandbox.channel import credentials
from sandbox.ports import Ports
from sandbox.stack import Plan, Stack
from tests import stripe_events
from tests.acceptance.world import ROOT, World, eventually

_IN_FLIGHT = 16
_ACKNOWLEDGED_BEFORE = (
    40  # so many are to be acknowledged before something dies, and while it is away the sending goes on
)
_PURCHASES = 60
_WAIT_S = 60.0
_numbers = count(1)

pytestmark = pytest.mark.slow


@pytest.fixture
def stack(reachable_folder: Path) -> Iterator[Stack]:
    """The sandbox's programs, each of which the test may kill. PostgreSQL keeps its promises here: nothing is forgetful."""
    folder = reachable_folder / f"crashes-{next(_numbers)}"
    folder.mkdir()
    built = Stack(Plan(folder, Ports.choose(0), ROOT / "catalog.toml", storefront=False))
    try:
        built.start()
        yield built
    finally:
        built.stop()


@pytest.fixture
async def crashing_world(stack: Stack) -> AsyncIterator[World]:
    known = credentials(stack.secrets.grpc_token)
    async with grpc.aio.secure_channel(stack.addresses()["grpc"], known) as channel, aiohttp.ClientSession() as http:
        yield World(stack.addresses(), channel, http)


class _Load:
    """Sends the events of many purchases, sixteen at a time, each once, and keeps what was answered with 200."""

    def __init__(self, world: World) -> None:
        now = int(time.time())
        bodies = [body for number in range(_PURCHASES) for body in stripe_events.purchase(f"load-{number}", now)]
        self._world = world
        self._waiting = [
            (f"evt_load_{number:04}", _named(body, f"evt_load_{number:04}")) for number, body in enumerate(bodies)
        ]
        self._waiting.reverse()
        self.acknowledged: set[str] = set()
        self.refused: dict[str, bytes] = {}
        self._begun = asyncio.Event()
        self._noticed = asyncio.Event()

    async def send_all(self) -> None:
        """Send everything; who is refused or cut off is noted for later, as Stripe would."""
        await asyncio.gather(*(self._send() for _ in range(_IN_FLIGHT)))

    async def begun(self) -> None:
        """Wait until enough was acknowledged."""
        await asyncio.wait_for(self._begun.wait(), _WAIT_S)

    async def noticed(self) -> None:
        """Wait until somebody was refused."""
        await asyncio.wait_for(self._noticed.wait(), _WAIT_S)

    async def send_refused_again(self) -> None:
        """Do as Stripe does: come again until it is taken."""
        for event_id, body in self.refused.items():
            await eventually(partial(self._post, body), lambda status: status == 200)
            self.acknowledged.add(event_id)

    async def _send(self) -> None:
        while self._waiting:
            event_id, body = self._waiting.pop()
            if await self._post(body) == 200:
                self.acknowledged.add(event_id)
            else:
                self.refused[event_id] = body
                self._noticed.set()
            if len(self.acknowledged) >= _ACKNOWLEDGED_BEFORE:
                self._begun.set()

    async def _post(self, body: bytes) -> int:
        status, text = await self._world.post(body, self._world.signed(body))
        assert status in {200, 503}, text
        return status


def _named(body: bytes, event_id: str) -> bytes:
    old = body.split(b'"id": "', 1)[1].split(b'"', 1)[0]
    return body.replace(b'"id": "' + old, b'"id": "' + event_id.encode(), 1).replace(
        b'"billing_deployment": "default"', b'"billing_deployment": "sandbox"'
    )


async def _check(world: World, load: _Load) -> None:
    """Every acknowledged event is there once; after sending the others again every purchase is complete."""
    assert load.acknowledged <= set(world.recorded_event_ids())
    await load.send_refused_again()
    assert max(Counter(world.recorded_event_ids()).values()) == 1
    for number in range(_PURCHASES):
        answer = await world.entitlements(f"load-{number}")
        assert (list(answer.plan_keys), len(answer.sources)) == (["pro"], 1), answer


async def _break_under_load(world: World, down: Callable[[], None], up: Callable[[], None]) -> _Load:
    load = _Load(world)
    sending = asyncio.create_task(load.send_all())
    await load.begun()
    down()
    await load.noticed()
    up()  # blocks the loop for a moment, and must: what a passing thread starts would end with it
    await asyncio.wait_for(sending, _WAIT_S)
    return load


async def test_a_killed_service_loses_nothing_that_was_acknowledged(stack: Stack, crashing_world: World) -> None:
    """Kill -9 of the service in the middle of `Fulfill`: after a restart and Stripe's retries every purchase is there, once."""

    def restart() -> None:
        stack.service.start()
        stack.service.wait_ready()

    load = await _break_under_load(crashing_world, stack.service.kill, restart)
    await _check(crashing_world, load)


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_postgres_away_under_load_loses_nothing_that_was_acknowledged(
    stack: Stack, crashing_world: World, how: str
) -> None:
    """PostgreSQL stopped, or killed, and started again: no acknowledged event is missing, and the service comes back by itself."""

    def kill() -> None:
        assert stack.postgres.process is not None
        stack.postgres.process.kill()
        stack.postgres.process.wait()

    load = await _break_under_load(
        crashing_world, stack.postgres.stop if how == "stopped" else kill, stack.postgres.start
    )
    await _check(crashing_world, load)
    assert stack.service.pid is not None


async def test_a_killed_service_makes_no_second_session(stack: Stack, crashing_world: World) -> None:
    """Kill -9 between the phases of `CreateCheckoutSession`: the retries get one session per request, and Stripe has no more."""
    orders = {f"buyer-{number}": str(uuid.uuid4()) for number in range(24)}

    async def ask(customer_id: str) -> str | None:
        try:
            return (await crashing_world.checkout(customer_id, request_id=orders[customer_id])).checkout_session_id
        except grpc.aio.AioRpcError as error:
            if error.code() not in {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }:
                raise
            return None

    calls = [asyncio.create_task(ask(customer_id)) for customer_id in orders]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    stack.service.kill()
    before = dict(zip(orders, await asyncio.gather(*calls), strict=True))
    assert None in before.values()
    stack.service.start()
    stack.service.wait_ready()
    after = {
        customer_id: await eventually(partial(ask, customer_id), lambda found: found is not None)
        for customer_id in orders
    }
    assert all(before[customer_id] in {None, after[customer_id]} for customer_id in orders)
    async with crashing_world.stripe() as client:
        sessions = [
            item.id async for item in (await client.v1.checkout.sessions.list_async({"limit": 100})).auto_paging_iter()
        ]
        customers = [
            item.id async for item in (await client.v1.customers.list_async({"limit": 100})).auto_paging_iter()
        ]
    assert Counter(sessions) == Counter(str(found) for found in after.values())
    assert len(customers) == len(orders)
