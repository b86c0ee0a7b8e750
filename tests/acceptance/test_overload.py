"""Many times what the programs take at once: they refuse early, stay alive and small, and go on as soon as they can."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Coroutine

import aiohttp
import grpc
import psycopg
from billing.v1 import entitlement_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types

from billing_service.rpc.guard import CALLS_OF_ONE
from tests import stripe_events
from tests.acceptance.world import World, eventually
from webhook_gateway.inflight import MAX_IN_FLIGHT

READERS = 2 * CALLS_OF_ONE  # of one caller, who may have half of that
SENDERS = 2 * MAX_IN_FLIGHT
REFUSALS = 1_000  # of each kind, while nothing can be done
PADDING = b" " * 16_384  # Stripe's events have 4 to 100 KB
MOST_BYTES = 512 * 1024 * 1024  # what Compose and Kubernetes give a program
PAUSE_S = 0.1  # of one who was refused; without it the flood would only measure itself
LIMIT_S = 120  # for anything that the test waits for
_RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)


class Flood:
    """Readers and senders who come again at once, whatever they are told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.reads: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.events = [_event(number) for number in range(SENDERS)]
        self._ebbing = asyncio.Event()

    def workers(self) -> list[Coroutine[None, None, None]]:
        """Give everybody."""
        return [*(self._read() for _ in range(READERS)), *(self._send(number) for number in range(SENDERS))]

    def ebb(self) -> None:
        """Have nobody come again."""
        self._ebbing.set()

    async def _read(self) -> None:
        request = entitlement_pb2.GetEntitlementsRequest(customer_id="nobody")
        while not self._ebbing.is_set():
            try:
                await self._world.billing.GetEntitlements(request, timeout=30)
                self.reads["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.reads[error.code().name] += 1
                await asyncio.sleep(PAUSE_S)

    async def _send(self, number: int) -> None:
        event_id, body = self.events[number]
        while not self._ebbing.is_set():
            try:
                status, text = await self._world.post(body, self._world.signed(body))
            except aiohttp.ClientConnectionError:  # the kernel refuses where more come at once than it queues
                self.answers["no connection"] += 1
            else:
                self.answers["200" if status == 200 else f"{status} {json.loads(text)['error']['code']}"] += 1
                if status == 200:
                    self.acknowledged.add(event_id)
            await asyncio.sleep(PAUSE_S)


def _event(number: int) -> tuple[str, bytes]:
    body = stripe_events.purchase(f"flood-{number}", int(time.time()))[0]
    body = body.replace(b'"billing_deployment": "default"', b'"billing_deployment": "sandbox"')
    return json.loads(body)["id"], body + PADDING


async def _alive(world: World) -> list[int]:
    """Ask both programs whether they live, and for their memory."""
    sizes = []
    for alive, numbers in ((world.addresses["ops"],) * 2, (world.addresses["gateway"], world.addresses["gateway_ops"])):
        async with world.http.get(f"{alive}/livez") as response:
            assert response.status == 200
        async with world.http.get(f"{numbers}/metrics") as response:
            found = _RESIDENT.search(await response.text())
            assert found is not None
            sizes.append(int(float(found[1])))
    return sizes


async def test_what_is_too_much_is_refused_early_and_the_programs_live_on_in_their_bounds(world: World) -> None:
    """While the database stands still, a thousand readers and two thousand senders come again and again.

    What is beyond the bounds is refused while the rest waits; both programs answer whoever looks after them and stay within the
    memory that they are given; when the database moves on, calls and webhooks succeed, and what was acknowledged is there.
    """
    # Connections of their own: the pool of the shared client would bound the flood, and stand in the way of who looks.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        async with grpc.aio.insecure_channel(world.addresses["grpc"]) as bare:
            health = health_pb2_grpc.HealthStub(bare)
            flooded = World(world.addresses, bare, http)
            flooded.billing = world.billing
            flood = Flood(flooded)
            with psycopg.connect(world.addresses["database"]) as holder:
                holder.execute("LOCK customers IN ACCESS EXCLUSIVE MODE")
                running = asyncio.gather(*flood.workers())
                sizes: list[int] = []
                async with asyncio.timeout(LIMIT_S):
                    while flood.reads["RESOURCE_EXHAUSTED"] < REFUSALS or flood.answers["503 overloaded"] < REFUSALS:
                        sizes += await _alive(world)
                        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
                        assert answer.status == health_pb2.HealthCheckResponse.SERVING
                flood.ebb()
                assert "OK" not in flood.reads
            async with asyncio.timeout(LIMIT_S):
                await running
        assert set(flood.reads) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
        assert set(flood.answers) <= {"200", "503 overloaded", "503 not_available", "no connection"}
        assert max(sizes) < MOST_BYTES
        answer = await world.entitlements("nobody")
        assert list(answer.plan_keys) == ["free"]
        for event_id, body in flood.events[:100]:

            async def sent(body: bytes = body) -> int:
                return (await flooded.post(body, flooded.signed(body)))[0]

            await eventually(sent, lambda status: status == 200)
            flood.acknowledged.add(event_id)
        assert flood.acknowledged <= set(world.recorded_event_ids())
