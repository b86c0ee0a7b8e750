"""`python -m benchmarks.watch`: how soon a change is in a client's cache, what a cached check and an open stream cost.

Real programs on a durable PostgreSQL. Latency is taken from before the event is sent to the service until the change is in the cache
of another process's client: signature and gateway left out, commit and everything after it included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from billing.internal.v1 import fulfillment_service_pb2 as internal
from billing.internal.v1.fulfillment_service_pb2_grpc import FulfillmentServiceStub
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse
from billing_client import BillingClient, EntitlementCache, Options

from sandbox.ports import Ports
from sandbox.stack import Plan, Stack

ROOT = Path(__file__).resolve().parent.parent
MONTH_S = 30 * 86_400
CALL_S = 30.0
SETTLE_S = 40.0
CHECKS = 1_000_000
PRO_PROJECTS = 50  # as in catalog.toml


class Run:
    """The programs under measurement."""

    def __init__(self, stack: Stack, customers: int) -> None:
        """Take the running programs."""
        self.addresses = stack.addresses()
        self.pid = stack.service.pid
        self.names = [f"c{number:06}" for number in range(customers)]
        self._start = int(time.time())
        self._numbers = itertools.count()
        channel = grpc.aio.insecure_channel(self.addresses["internal"])
        self._fulfillment = FulfillmentServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {self.addresses['internal_token']}"),)

    def subscription(self, name: str, event_type: str, status: str) -> bytes:
        """Give an event of a customer's subscription, each later than the one before."""
        number = next(self._numbers)
        item = {
            "id": f"si_{name}",
            "object": "subscription_item",
            "quantity": 1,
            "current_period_start": self._start,
            "current_period_end": self._start + MONTH_S,
            "price": {"id": "price_bench", "object": "price", "lookup_key": "pro_monthly"},
        }
        metadata = {"billing_deployment": "sandbox", "billing_customer_id": name}
        body = {
            "id": f"sub_{name}",
            "object": "subscription",
            "created": self._start,
            "start_date": self._start,
            "customer": f"cus_{name}",
            "status": status,
            "items": {"object": "list", "data": [item], "has_more": False},
            "latest_invoice": None,
            "cancel_at": None,
            "cancel_at_period_end": False,
            "ended_at": None,
            "trial_end": None,
            "pause_collection": None,
            "metadata": metadata,
        }
        envelope = {
            "id": f"evt_bench_{number:09}",
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": self._start + number,
            "livemode": False,
            "type": event_type,
            "data": {"object": body},
        }
        return json.dumps(envelope).encode()

    async def fulfil(self, bodies: Sequence[bytes]) -> None:
        """Apply events."""
        events = [internal.VerifiedEvent(payload=body) for body in bodies]
        await self._fulfillment.Fulfill(internal.FulfillRequest(events=events), metadata=self._metadata, timeout=CALL_S)

    async def populate(self) -> None:
        """Have every customer subscribe."""
        for start in range(0, len(self.names), 100):
            some = self.names[start : start + 100]
            await self.fulfil([self.subscription(name, "customer.subscription.created", "active") for name in some])

    def resident_kib(self) -> int:
        """Give the service's memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise LookupError("no VmRSS")


async def latencies(run: Run, rate: int, seconds: float) -> list[float]:
    """Change customers at a rate; give the milliseconds until each change was in a client's cache."""
    sent: dict[str, float] = {}
    found: list[float] = []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            BillingClient(Options([run.addresses["grpc"]], token=run.addresses["grpc_token"]))
        )
        cache = await stack.enter_async_context(EntitlementCache(client))
        await asyncio.wait_for(cache.ready(), SETTLE_S)
        calls = []
        for number in range(int(rate * seconds)):
            name = run.names[number % len(run.names)]
            known = cache.check(name, "projects")
            revision, has_pro = known.revision, known.value == PRO_PROJECTS
            word, state = ("paused", "paused") if has_pro else ("resumed", "active")
            status = (f"customer.subscription.{word}", state)
            sent[name] = time.perf_counter()
            calls.append(asyncio.create_task(run.fulfil([run.subscription(name, *status)])))
            calls.append(asyncio.create_task(_seen(cache, name, revision, sent[name], found)))
            await asyncio.sleep(1 / rate)
        await asyncio.wait_for(asyncio.gather(*calls), SETTLE_S)
    return found


async def _seen(cache: EntitlementCache, name: str, revision: int, sent: float, found: list[float]) -> None:
    while cache.check(name, "projects").revision <= revision:  # noqa: ASYNC110 - what is measured is when a look finds it
        await asyncio.sleep(0.001)
    found.append((time.perf_counter() - sent) * 1000)


async def checks_per_second(run: Run) -> float:
    """Give how many cached checks one core does in a second."""
    async with (
        BillingClient(Options([run.addresses["grpc"]], token=run.addresses["grpc_token"])) as client,
        EntitlementCache(client) as cache,
    ):
        await asyncio.wait_for(cache.ready(), SETTLE_S)
        check, names = cache.check, run.names
        began = time.perf_counter()
        for _ in range(CHECKS // len(names)):
            for name in names:
                check(name, "projects")
        return CHECKS // len(names) * len(names) / (time.perf_counter() - began)


@asynccontextmanager
async def streams(run: Run, count: int) -> AsyncIterator[float]:
    """Open streams of one customer each over a few connections; give the KiB that each costs the service."""
    before = run.resident_kib()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                BillingClient(Options([run.addresses["grpc"]], token=run.addresses["grpc_token"]))
            )
            for _ in range(8)
        ]
        ready = [asyncio.Event() for _ in range(count)]
        tasks = [
            asyncio.create_task(_follow(clients[number % 8], run.names[number % len(run.names)], ready[number]))
            for number in range(count)
        ]
        await asyncio.wait_for(asyncio.gather(*(one.wait() for one in ready)), SETTLE_S)
        yield (run.resident_kib() - before) / count
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _follow(client: BillingClient, name: str, ready: asyncio.Event) -> None:
    async for message in client.watch_entitlements(WatchEntitlementsRequest(customer_ids=[name])):
        if message.kind == WatchEntitlementsResponse.KIND_SNAPSHOT_END:
            ready.set()


def shown(values: Sequence[float]) -> dict[str, float]:
    """Give the median and the 99th percentile."""
    ordered = sorted(values)
    return {"p50_ms": round(statistics.median(ordered), 1), "p99_ms": round(ordered[int(len(ordered) * 0.99)], 1)}


async def measure(options: argparse.Namespace, stack: Stack) -> dict[str, Any]:
    """Take every measurement, one after the other."""
    run = Run(stack, options.customers)
    await run.populate()
    report: dict[str, Any] = {"customers": options.customers}
    report["cached_checks_per_s"] = round(await checks_per_second(run))
    alone = await latencies(run, options.rate, options.seconds)
    report["change_to_cache"] = shown(alone) | {"changes": len(alone), "rate_per_s": options.rate}
    async with streams(run, options.streams) as kib_each:
        report["streams"] = {"open": options.streams, "kib_each": round(kib_each, 1)}
        among = await latencies(run, options.rate, options.seconds)
        report["change_to_cache_among_streams"] = shown(among)
    ratio = statistics.median(among) / statistics.median(alone)
    report["among_streams_over_alone"] = round(ratio, 2)
    return report


def main() -> int:
    """Measure, and write one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        stack = Stack(Plan(folder, Ports.choose(0), ROOT / "catalog.toml", storefront=False))
        stack.start()
        try:
            report = asyncio.run(measure(options, stack))
        finally:
            stack.stop()
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
