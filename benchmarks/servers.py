"""An experiment, not a part of the product: would another gRPC server answer reads faster than grpc.aio?

    python -m benchmarks.servers --rounds 5 --seconds 4

One process each, pinned to the first core, without interceptors: grpc.aio, and grpcio's threaded server with 4 and with 64 threads;
PyPI's `pygrpc-native` too where it is importable (it is no dependency). Each serves a handler that gives a ready answer, and our read,
fresh from PostgreSQL with concurrent reads in one query. Behind threads the read runs on an event loop of its own, and a
thread waits for it: so a server of 4 threads has 4 reads in flight, and 60 callers wait. 64 calls are in flight; the generator is h2load.
Rounds alternate; medians, and ratios to grpc.aio: calls a second, and the server's processor time for a call, which says more where
others use the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from billing.v1 import billing_service_pb2_grpc, entitlement_pb2

from benchmarks import reads
from benchmarks.cores import WARM_S, h2load, request_body
from benchmarks.programs import cpu_s
from billing_service import garbage
from billing_service.domain.catalog_file import parse_catalog
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.logs import configure_logs
from billing_service.rpc.servicers import BillingFlows, BillingServicer
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from sandbox.postgres import EmbeddedPostgres

NATIVE: Final = "pygrpc_native"
ADDRESS: Final = "127.0.0.1:0"
Answer = entitlement_pb2.GetEntitlementsResponse


def servicer(database_url: str) -> BillingServicer:
    """Put together what a read needs."""
    database = Database(database_url)
    stripe = StripeApi("sk_test_benchmark", "http://127.0.0.1:9")
    prices = Prices(database, stripe, parse_catalog((reads.ROOT / "catalog.toml").read_text()))
    unused: Any = None  # the other use cases are never called
    get = GetEntitlements(prices, ReadEntitlements(database, prices, lambda: datetime.now(UTC)), unused, unused)
    return BillingServicer(
        BillingFlows(**{field.name: unused for field in fields(BillingFlows)} | {"get_entitlements": get})
    )


def handlers(call: Callable[..., Any]) -> grpc.GenericRpcHandler:
    """Give a method for the contract's service."""
    method = grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=entitlement_pb2.GetEntitlementsRequest.FromString,
        response_serializer=Answer.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("billing.v1.BillingService", {"GetEntitlements": method})


class Called(billing_service_pb2_grpc.BillingServiceServicer):
    """A servicer of generated code, which the native server wants."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.GetEntitlements = call


async def serve_aio(database_url: str, make: Callable[[], Any]) -> None:
    """Serve both handlers on an event loop, and say where."""
    service = servicer(database_url)
    ready = await service.GetEntitlements(entitlement_pb2.GetEntitlementsRequest(customer_id="customer-0"), None)

    async def empty(_request: Any, _context: Any) -> Answer:
        return ready

    ports = []
    for call in (empty, service.GetEntitlements):
        server = make()
        billing_service_pb2_grpc.add_BillingServiceServicer_to_server(Called(call), server)
        ports.append(server.add_insecure_port(ADDRESS))
        await server.start()
    announce(ports)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # nothing here is worth an orderly end


def serve_threads(database_url: str, threads: int) -> None:
    """Serve both handlers on threads; the read runs on an event loop of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def made() -> BillingServicer:
        return servicer(database_url)

    def wait_for(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    service = wait_for(made())
    ready = wait_for(service.GetEntitlements(entitlement_pb2.GetEntitlementsRequest(customer_id="customer-0"), None))
    calls = (lambda _request, _context: ready, lambda request, _: wait_for(service.GetEntitlements(request, None)))
    ports = []
    for call in calls:
        server = grpc.server(ThreadPoolExecutor(threads))
        server.add_generic_rpc_handlers((handlers(call),))
        ports.append(server.add_insecure_port(ADDRESS))
        server.start()
    announce(ports)
    sys.stdin.read()
    os._exit(0)


def announce(ports: Sequence[int]) -> None:
    """Tell the parent."""
    garbage.settle()
    print(json.dumps(ports), flush=True)  # noqa: T201 - the parent reads it


def serve(kind: str, database_url: str) -> None:
    """Serve one kind, until standard input ends."""
    configure_logs("ERROR")
    if kind.startswith("threads-"):
        serve_threads(database_url, int(kind.removeprefix("threads-")))
    elif kind == "native":
        native = importlib.import_module(f"{NATIVE}.aio")
        asyncio.run(serve_aio(database_url, native.server))
    else:
        asyncio.run(serve_aio(database_url, grpc.aio.server))


@dataclass(frozen=True)
class Served:
    """A server that runs: its process, and the ports of the empty handler and of the read."""

    pid: int
    ports: Sequence[int]


@dataclass(frozen=True)
class Round:
    """What one round gave: calls a second, and the server's processor time for each, in seconds."""

    rate: float
    cpu_s: float


@contextmanager
def serving(kind: str, database_url: str) -> Iterator[Served]:
    """Run one kind pinned to the first core."""
    core = min(os.sched_getaffinity(0))
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.servers", "--serve", kind, database_url],  # noqa: S607 - util-linux
        cwd=reads.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        yield Served(process.pid, json.loads(process.stdout.readline()))
    finally:
        process.communicate("")


def measure(served: Served, handler: int, body: Path, seconds: int) -> Round:
    """Make one round."""
    before = cpu_s(served.pid)
    rate, calls = h2load(served.ports[handler], body, seconds)
    return Round(rate, (cpu_s(served.pid) - before) / calls)


def run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every kind, the rounds in turn."""
    native = ["native"] if importlib.util.find_spec(NATIVE) else []
    kinds = ["aio", *(options.servers or ["threads-4", "threads-64", *native])]
    body = request_body(folder)
    rounds: dict[tuple[str, int], list[Round]] = {(kind, handler): [] for kind in kinds for handler in range(2)}
    with EmbeddedPostgres(folder / "postgres") as postgres, ExitStack() as stack:
        url = postgres.ensure_database("servers")
        reads.fill(url, options.customers)
        all_served = {kind: stack.enter_context(serving(kind, url)) for kind in kinds}
        for kind, served in all_served.items():
            sys.stderr.write(f"{kind}: empty on {served.ports[0]}, read on {served.ports[1]}\n")
            asyncio.run(reads.check(served.ports[1], options.customers))
            for port in served.ports:
                h2load(port, body, WARM_S)
        for _ in range(options.rounds):
            for (kind, handler), done in rounds.items():
                done.append(measure(all_served[kind], handler, body, options.seconds))
    return [{"server": kind, "said": [_said(rounds[kind, h], rounds["aio", h]) for h in range(2)]} for kind in kinds]


def _said(found: Sequence[Round], aio: Sequence[Round]) -> tuple[float, float, float, float]:
    """Give calls a second, their ratio to grpc.aio's, processor time a call in µs, and grpc.aio's part of ours."""
    pairs = list(zip(found, aio, strict=True))
    return (
        statistics.median(one.rate for one in found),
        statistics.median(one.rate / other.rate for one, other in pairs),
        statistics.median(one.cpu_s for one in found) * 1e6,
        statistics.median(other.cpu_s / one.cpu_s for one, other in pairs),
    )


def table(results: Sequence[dict[str, Any]]) -> str:
    """Write the results as a Markdown table."""
    handler = "calls a second (beside grpc.aio) | processor a call (beside grpc.aio)"
    lines = [f"| server | empty: {handler} | read: {handler} |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['server']} | "
        + " | ".join(f"{rate:,.0f} (**{more:.2f}**) | {us:.0f} µs ({less:.2f})" for rate, more, us, less in r["said"])
        + " |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--servers", nargs="*", metavar="KIND", help="beside aio: threads-N, native (default: all)")
    parser.add_argument("--serve", nargs=2, metavar=("KIND", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    if shutil.which("h2load") is None:
        raise SystemExit("This needs h2load (Debian: nghttp2-client).")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        print(table(run(Path(folder), options)))  # noqa: T201 - a program for a terminal


if __name__ == "__main__":
    main()
