"""How much of an empty handler's throughput is left when GetEntitlements reads always fresh from Postgres.

    python -m benchmarks.reads --customers 1000 1000000

One server process, pinned to the first core, has two public listeners with the same interceptors: one whose handler gives a
ready answer of the same size, and ours. Postgres and the generator have the other cores. The rounds of both are interleaved, so
that a noisy machine is noisy for both; what is said are medians and ratios. The generator asks for another customer each time,
over plain HTTP/2 frames (`reads_load`); how idle it was is said too. A real client checks some of the answers in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import psycopg
import uvloop
from billing.v1 import billing_service_pb2_grpc, entitlement_pb2

from benchmarks import results
from benchmarks.errors import BenchmarkError
from benchmarks.reads_load import STEM, Round, alone, load
from billing_service import garbage
from billing_service.address import Address
from billing_service.domain.catalog_file import parse_catalog
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.logs import configure_logs
from billing_service.rpc.server import public_listener
from billing_service.rpc.servicers import BillingFlows, BillingServicer
from billing_service.storage.customer_reads import SETTINGS, STATEMENT
from billing_service.storage.database import Database
from billing_service.storage.schema import migrate
from billing_service.stripe_api.client import StripeApi
from sandbox.postgres import EmbeddedPostgres

ROOT: Final = Path(__file__).parents[1]
FILL_STEP: Final = 100_000  # customers of one statement
CALLS_ALONE: Final = 500

# A customer with one live subscription of the catalog's "pro", as fulfilment would have written it; # is the customer's number.
_ITEM: Final = {"item_id": "si_#", "price_id": "price_pro_monthly", "lookup_key": "pro_monthly", "quantity": 1}
_SUBSCRIPTION: Final = {
    "subscription_id": "sub_#",
    "status": "active",
    "cancel_at": None,
    "cancel_at_period_end": False,
    "ended_at": None,
    "trial_end": None,
    "invoice_status": "paid",
    "invoice_known": True,
    "first_payment": False,
    "first_payment_settled": True,
    "failed_time": None,
    "due_time": None,
    "collection_paused": False,
    "dispute": None,
    "customer_deleted": False,
}
# A text with a number put in and parsed once takes less than half of what building the JSON in SQL does.
FILL: Final = """
    INSERT INTO customers (customer_id, revision, facts)
    SELECT 'customer-' || n, 1, CAST(replace(%(facts)s, '#', CAST(n AS text)) AS jsonb)
    FROM generate_series(CAST(%(first)s AS int), CAST(%(last)s AS int)) AS n
"""


def facts_of_one(start: int) -> str:
    """Give the facts of one customer, whose period began at a time (unix seconds)."""
    item = _ITEM | {"period_start": start, "period_end": start + 30 * 86_400}
    return json.dumps({"purchases": [], "subscriptions": [_SUBSCRIPTION | {"start": start, "items": [item]}]})


# --- The server ----------------------------------------------------------------------------------------------------------


class Empty(BillingServicer):
    """The same servicer with a handler that does nothing but give a ready answer."""

    def __init__(self, flows: BillingFlows, answer: entitlement_pb2.GetEntitlementsResponse) -> None:
        super().__init__(flows)
        self._answer = answer

    async def GetEntitlements(  # type: ignore[override]  # noqa: N802 - the contract's name
        self, request: entitlement_pb2.GetEntitlementsRequest, context: Any
    ) -> entitlement_pb2.GetEntitlementsResponse:
        """Give the answer."""
        del request, context
        return self._answer


async def serve(database_url: str) -> None:
    """Serve both on free ports, say which on standard output, until standard input ends."""
    configure_logs()
    database = Database(database_url)
    stripe = StripeApi("sk_test_benchmark", "http://127.0.0.1:9")
    prices = Prices(database, stripe, parse_catalog((ROOT / "catalog.toml").read_text()))
    read = ReadEntitlements(database, prices, lambda: datetime.now(UTC))
    unused: Any = None  # the other use cases are never called
    get = GetEntitlements(prices, read, unused, unused)
    flows = BillingFlows(**{one.name: unused for one in fields(BillingFlows)} | {"get_entitlements": get})
    ours = BillingServicer(flows)
    request = entitlement_pb2.GetEntitlementsRequest(customer_id=f"{STEM}0")
    answer = entitlement_pb2.GetEntitlementsResponse.FromString(await ours.GetEntitlements(request, unused))
    listeners = [public_listener(one) for one in (Empty(flows, answer), ours)]
    addresses = [await listener.start(Address("127.0.0.1", 0), "BENCHMARK") for listener in listeners]
    print(json.dumps([*(address.port for address in addresses), answer.ByteSize()]), flush=True)  # noqa: T201 - the parent reads it
    garbage.settle()
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    await asyncio.gather(*(listener.stop(0) for listener in listeners))
    await stripe.close()
    await database.close()


@contextmanager
def serving(database_url: str) -> Iterator[tuple[int, int, int, int]]:
    """Run the server pinned to the first core; gives both ports, the size of an answer, and the process's id."""
    process = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.reads", "--serve", database_url],  # noqa: S607 - util-linux
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        empty, ours, size = json.loads(process.stdout.readline())
        yield empty, ours, size, process.pid
    finally:
        process.communicate("")


async def check(port: int, customers: int) -> None:
    """Ask for some answers with a real client: everybody is on the plan that was written."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = billing_service_pb2_grpc.BillingServiceStub(channel)
        for number in (0, customers // 2, customers - 1):
            request = entitlement_pb2.GetEntitlementsRequest(customer_id=f"{STEM}{number}")
            answer = await stub.GetEntitlements(request, timeout=10)
            if (answer.customer_id, list(answer.plan_keys)) != (request.customer_id, ["pro"]):
                raise SystemExit(f"a wrong answer: {answer}")


@dataclass
class Size:
    """So many customers: their database, the server over it, and what was measured."""

    customers: int
    looked_up: dict[str, Any]  # what PostgreSQL says of the hot read
    load_s: float
    ports: tuple[int, int] = (0, 0)  # of the empty handler and of ours
    answer_bytes: int = 0
    rounds: list[tuple[Round, Round]] = field(default_factory=list)
    singles: list[tuple[Round, Round]] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Give medians and ratios."""
        rounds, singles = self.rounds, self.singles
        return {
            "customers": self.customers,
            "load_s": round(self.load_s, 1),
            "looked_up": self.looked_up,
            "answer_bytes": self.answer_bytes,
            "empty_per_s": statistics.median(a.rate for a, _ in rounds),
            "ours_per_s": statistics.median(b.rate for _, b in rounds),
            "ratio": statistics.median(b.rate / a.rate for a, b in rounds),
            "ratio_least": min(b.rate / a.rate for a, b in rounds),
            "ratio_most": max(b.rate / a.rate for a, b in rounds),
            "generator_busy": max(one.busy for pair in rounds for one in pair),
            "empty_p50_ms": statistics.median(a.p50_s for a, _ in singles) * 1000,
            "ours_p50_ms": statistics.median(b.p50_s for _, b in singles) * 1000,
            "p50_ratio": statistics.median(b.p50_s / a.p50_s for a, b in singles),
        }


def fill(database_url: str, customers: int) -> Size:
    """Write the customers, let Postgres know how many there are, and look how it finds one.

    Raises:
        BenchmarkError: the hot read is no look-up in the index.
    """
    migrate(database_url)
    began, facts = time.perf_counter(), facts_of_one(int(time.time()) - 3_600)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for first in range(0, customers, FILL_STEP):
            last = min(first + FILL_STEP, customers) - 1
            connection.execute(FILL, {"first": first, "last": last, "facts": facts})
        connection.execute("VACUUM ANALYZE customers")
        connection.execute("CHECKPOINT")
        took = time.perf_counter() - began
        for statement in (*SETTINGS, STATEMENT):
            connection.execute(statement)
        key = f"{STEM}{customers // 2}"
        execute = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE customer_rows (ARRAY['{key}'])"
        row = connection.execute(execute).fetchone()  # type: ignore[arg-type] # the key is made here
        plan = row[0][0]["Plan"] if row else {}
    pages = plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
    looked_up = {"node": plan.get("Node Type"), "index": plan.get("Index Name"), "searches": plan.get("Index Searches")}
    if looked_up != {"node": "Index Scan", "index": "customers_pkey", "searches": 1}:
        raise BenchmarkError(f"the hot read is no look-up in the index: {plan}")
    return Size(customers, looked_up | {"pages": pages}, took)


def measure(sizes: Sequence[Size], options: argparse.Namespace) -> None:
    """Measure all sizes in turn, round by round, so that a noisy moment is none of one size alone."""
    for size in sizes:
        asyncio.run(check(size.ports[1], size.customers))
        for port in size.ports:
            load(port, size.customers, 1.0, seed=0)  # warm
    for seed in range(1, options.rounds + 1):
        for size in sizes:
            empty, ours = (load(port, size.customers, options.seconds, seed) for port in size.ports)
            size.rounds.append((empty, ours))
    for seed in range(options.rounds):
        for size in sizes:
            empty, ours = (alone(port, size.customers, CALLS_ALONE, seed) for port in size.ports)
            size.singles.append((empty, ours))


def compared(sizes: Sequence[Size]) -> float:
    """Give the throughput of the largest over that of the smallest, each beside its own empty handler: the median of the rounds.

    The servers are two processes, and one may be a little slower than the other for good (where its memory happens to lie).
    """
    small, large = sizes[0].rounds, sizes[-1].rounds
    pairs = zip(small, large, strict=True)
    return statistics.median((b.rate / a.rate) / (d.rate / c.rate) for (c, d), (a, b) in pairs)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Load every size, serve each, and measure them side by side."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder).chmod(0o711)
        server = stack.enter_context(EmbeddedPostgres(Path(folder) / "postgres"))
        sizes = []
        for customers in sorted(options.customers):
            url = server.ensure_database(f"reads_{customers}")
            size = fill(url, customers)
            empty, ours, size.answer_bytes, _ = stack.enter_context(serving(url))
            size.ports = (empty, ours)
            sizes.append(size)
        measure(sizes, options)
    return {"sizes": [size.report() for size in sizes], "largest_over_smallest": compared(sizes)}


def main() -> None:
    """Measure the sizes that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--serve", metavar="URL", help=argparse.SUPPRESS)
    results.add_argument(parser)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))  # as the service itself does
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:] or cores))  # Postgres inherits it
    results.write(run(options), options.out)


if __name__ == "__main__":
    main()
