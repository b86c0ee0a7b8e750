"""`python -m benchmarks.watch`: how soon a change is in a client's cache, what a cached check and an open stream cost.

Real programs on a durable PostgreSQL, which notes when each transaction committed. Latency is taken from there, and from when the
event was sent to the service (signature and gateway left out), until a look at the cache of another process's client finds the
change. It looks each millisecond; all clocks are this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
from billing.internal.v1 import fulfillment_service_pb2 as internal
from billing.internal.v1.fulfillment_service_pb2_grpc import FulfillmentServiceStub
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse
from billing_client import BillingClient, EntitlementCache, Options

from benchmarks import results
from benchmarks.errors import BenchmarkError
from benchmarks.programs import cpu_s
from sandbox.ports import Ports
from sandbox.stack import Plan, Stack

ROOT = Path(__file__).resolve().parent.parent
MONTH_S = 30 * 86_400
CALL_S = 30.0
SETTLE_S = 40.0
CHECKS = 1_000_000
MOST_UNDER_WAY = 100  # where the machine does not keep up with the rate, it is told instead of being buried
OLDEST_S = 60.0
IDLE_S = 5.0  # what open streams cost while nothing changes: their sign of life
LOOK_S = 0.001
BYSTANDER = "bystander"  # the stem of customers who never change
COMMITTED = """
    SELECT customer_id, revision, CAST(extract(epoch FROM pg_xact_commit_timestamp(c.xmin)) AS float8)
    FROM entitlement_changes AS c JOIN unnest(%s::text[], %s::bigint[]) AS n (customer_id, revision) USING (customer_id, revision)
"""
PRO_PROJECTS = 50  # as in catalog.toml


class Run:
    """The programs under measurement."""

    def __init__(self, stack: Stack, customers: int) -> None:
        """Take the running programs."""
        self.addresses = stack.addresses()
        self.pid = stack.service.pid
        self.database_url = stack.database_url
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

    def committed(self, changes: Sequence[tuple[str, int]]) -> dict[tuple[str, int], float]:
        """Say when the transaction of each change of a customer committed (unix seconds)."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute(COMMITTED, ([name for name, _ in changes], [number for _, number in changes]))
            return {(name, revision): time for name, revision, time in rows}

    def resident_kib(self) -> int:
        """Give the service's memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise LookupError("no VmRSS")


@dataclass
class Latencies:
    """What was seen of changes at a rate: milliseconds to the cache, and the service's processor time of one change."""

    from_commit: list[float]
    from_sending: list[float]
    rate_per_s: float  # as it was reached
    cpu_ms: float

    def report(self) -> dict[str, Any]:
        """Give medians and 99th percentiles."""
        return {
            "changes": len(self.from_commit),
            "rate_per_s": round(self.rate_per_s),
            "from_commit": shown(self.from_commit),
            "from_commit_curve": curve(self.from_commit),
            "from_sending": shown(self.from_sending),
            "service_cpu_ms_each": round(self.cpu_ms, 3),
        }


class Lookout:
    """Looks at a cache, and notes when each change is first found there."""

    def __init__(self, cache: EntitlementCache) -> None:
        self._cache = cache
        self._awaited: dict[str, int] = {}  # by customer: the revision before
        self.seen: dict[tuple[str, int], float] = {}

    def expect(self, name: str) -> bool:
        """Say that a customer is about to change, and whether he has the paid plan now."""
        known = self._cache.check(name, "projects")
        self._awaited[name] = known.revision
        return known.value == PRO_PROJECTS

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            now = time.time()
            for name, before in list(self._awaited.items()):
                revision = self._cache.check(name, "projects").revision
                if revision > before:
                    self.seen[name, revision] = now
                    del self._awaited[name]
            await asyncio.sleep(LOOK_S)

    async def all_seen(self) -> None:
        """Wait until everything that was expected has come."""
        while self._awaited:  # noqa: ASYNC110 - it is found by looking
            await asyncio.sleep(LOOK_S)


async def latencies(run: Run, rate: int, seconds: float) -> Latencies:
    """Change customers at a rate; give how long each change took to a client's cache."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            BillingClient(Options([run.addresses["grpc"]], token=run.addresses["grpc_token"]))
        )
        cache = await stack.enter_async_context(EntitlementCache(client))
        await asyncio.wait_for(cache.ready(), SETTLE_S)
        idle = cpu_s(run.pid)
        await asyncio.sleep(IDLE_S)
        idle = (cpu_s(run.pid) - idle) / IDLE_S
        lookout = Lookout(cache)
        looking = asyncio.create_task(lookout.run())
        slots = asyncio.Semaphore(MOST_UNDER_WAY)
        sent: dict[str, list[float]] = {}
        calls, began, cpu = [], time.perf_counter(), cpu_s(run.pid)
        for number in range(int(rate * seconds)):
            name = run.names[number % len(run.names)]
            has_pro = lookout.expect(name)
            word, state = ("paused", "paused") if has_pro else ("resumed", "active")
            sent.setdefault(name, []).append(time.time())
            body = run.subscription(name, f"customer.subscription.{word}", state)
            await slots.acquire()
            call = asyncio.create_task(run.fulfil([body]))
            call.add_done_callback(lambda _: slots.release())
            calls.append(call)
            await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.perf_counter()))
        reached = len(calls) / (time.perf_counter() - began)
        await asyncio.wait_for(asyncio.gather(*calls, lookout.all_seen()), SETTLE_S)
        used = cpu_s(run.pid) - cpu - idle * (time.perf_counter() - began)
        looking.cancel()
    committed = await asyncio.to_thread(run.committed, list(lookout.seen))
    return Latencies(
        from_commit=[(at - committed[key]) * 1000 for key, at in lookout.seen.items()],
        from_sending=[(at - _last_before(sent[key[0]], at)) * 1000 for key, at in lookout.seen.items()],
        rate_per_s=reached,
        cpu_ms=used / len(lookout.seen) * 1000,
    )


def _last_before(times: Sequence[float], at: float) -> float:
    return max(time for time in times if time <= at)


async def checks_per_second(run: Run) -> dict[str, int]:
    """Give how many cached checks one core does in a second, each of another customer, drawn at random beforehand.

    `check` is the call that callers make: it looks whether the copy is fresh enough to answer by, and answers with an age.
    """
    picks = random.Random(1).choices(run.names, k=CHECKS)  # noqa: S311 - the same in each run
    async with (
        BillingClient(Options([run.addresses["grpc"]], token=run.addresses["grpc_token"])) as client,
        EntitlementCache(client) as cache,
    ):
        await asyncio.wait_for(cache.ready(), SETTLE_S)
        check = cache.check
        found = {}
        began = time.thread_time()
        for name in picks:
            check(name, "projects")
        found["check"] = round(CHECKS / (time.thread_time() - began))
        began = time.thread_time()
        for name in picks:
            if check(name, "projects").age_s > OLDEST_S:
                raise BenchmarkError("the cache is not fresh")
        found["check_and_age"] = round(CHECKS / (time.thread_time() - began))
    return found


@asynccontextmanager
async def streams(run: Run, count: int) -> AsyncIterator[float]:
    """Open streams of one customer each, who never changes, over a few connections; give the KiB that each costs the service."""
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
            asyncio.create_task(_follow(clients[number % 8], f"{BYSTANDER}{number}", ready[number]))
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


def curve(values: Sequence[float]) -> list[tuple[float, float]]:
    """Give each percent, and the milliseconds within which so many were."""
    ordered = sorted(values)
    return [(percent, round(ordered[(len(ordered) - 1) * percent // 100], 2)) for percent in range(101)]


async def measure(options: argparse.Namespace, stack: Stack) -> dict[str, Any]:
    """Take every measurement, one after the other."""
    run = Run(stack, options.customers)
    await run.populate()
    report: dict[str, Any] = {"customers": options.customers}
    report["cached_checks_per_s"] = await checks_per_second(run)
    alone = await latencies(run, options.rate, options.seconds)
    report["alone"] = alone.report()
    async with streams(run, options.streams - 1) as kib_each:  # and the cache's: a caller may have a thousand
        report["streams"] = {"open": options.streams, "kib_each": round(kib_each, 1)}
        among = await latencies(run, options.rate, options.seconds)
        report["among_streams"] = among.report()
    report["cpu_among_streams_over_alone"] = round(among.cpu_ms / alone.cpu_ms, 2)
    return report


def main() -> int:
    """Measure, and write one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    results.add_argument(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        stack = Stack(
            Plan(
                folder,
                Ports.choose(0),
                ROOT / "catalog.toml",
                storefront=False,
                postgres_settings={"track_commit_timestamp": "on"},
                # A line for each call, through a pipe, is the sandbox's.
                service_settings={"BILLING_LOG_LEVEL": "WARNING"},
            )
        )
        stack.start()
        try:
            report = asyncio.run(measure(options, stack))
        finally:
            stack.stop()
    results.write(report, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
