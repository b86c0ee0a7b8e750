"""An experiment, not a part of the product: would another gRPC server answer reads faster than grpc.aio?

    python -m benchmarks.servers --rounds 5 --seconds 4

One process each, pinned to the first core, without interceptors: grpc.aio, and grpcio's threaded server with 4 and with 64 threads;
PyPI's `pygrpc-native` too where it is importable (it is no dependency). Each serves a handler that gives a ready answer, and our read,
fresh from PostgreSQL with concurrent reads in one query. Behind threads the read runs on an event loop of its own, and a
thread waits for it: so a server of 4 threads has 4 reads in flight, and 60 callers wait. 64 calls are in flight; the generator is h2load.
Rounds alternate; medians and ratios to grpc.aio.
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
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from billing.v1 import billing_service_pb2_grpc, entitlement_pb2

from benchmarks import reads
from benchmarks.cores import WARM_S, h2load
from billing_service import garbage
from billing_service.domain.catalog_file import parse_catalog
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
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
    if kind.startswith("threads-"):
        serve_threads(database_url, int(kind.removeprefix("threads-")))
    elif kind == "native":
        native = importlib.import_module(f"{NATIVE}.aio")
        asyncio.run(serve_aio(database_url, native.server))
    else:
        asyncio.run(serve_aio(database_url, grpc.aio.server))


@contextmanager
def serving(kind: str, database_url: str) -> Iterator[tuple[int, int]]:
    """Run one kind pinned to the first core; gives the ports of the empty handler and of the read."""
    core = min(os.sched_getaffinity(0))
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.servers", "--serve", kind, database_url],  # noqa: S607 - util-linux
        cwd=reads.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    try:
        empty, read = json.loads(process.stdout.readline())
        yield empty, read
    finally:
        process.communicate("")


def run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every kind, the rounds in turn."""
    kinds = ["aio", "threads-4", "threads-64", *(["native"] if importlib.util.find_spec(NATIVE) else [])]
    body = folder / "request"
    message = b"\x0a\x0a" + b"customer-7"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    rates: dict[tuple[str, int], list[float]] = {(kind, handler): [] for kind in kinds for handler in range(2)}
    with EmbeddedPostgres(folder / "postgres") as postgres, ExitStack() as stack:
        url = postgres.ensure_database("servers")
        reads.fill(url, options.customers)
        ports = {kind: stack.enter_context(serving(kind, url)) for kind in kinds}
        for kind in kinds:
            asyncio.run(reads.check(ports[kind][1], options.customers))
            for port in ports[kind]:
                h2load(port, body, WARM_S)
        for _ in range(options.rounds):
            for handler in range(2):
                for kind in kinds:
                    rates[kind, handler].append(h2load(ports[kind][handler], body, options.seconds)[0])
    return [
        {
            "server": kind,
            **{
                f"{name}{suffix}": value
                for handler, name in enumerate(("empty", "read"))
                for suffix, value in _said(rates[kind, handler], rates["aio", handler]).items()
            },
        }
        for kind in kinds
    ]


def _said(found: Sequence[float], aio: Sequence[float]) -> dict[str, float]:
    ratios = [one / other for one, other in zip(found, aio, strict=True)]
    return {"_per_s": statistics.median(found), "_ratio": statistics.median(ratios)}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Write the results as a Markdown table."""
    lines = ["| server | empty handler | beside grpc.aio | read | beside grpc.aio |", "|---|---|---|---|---|"]
    lines += [
        f"| {r['server']} | {r['empty_per_s']:,.0f}/s | **{r['empty_ratio']:.2f}** | {r['read_per_s']:,.0f}/s | **{r['read_ratio']:.2f}** |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
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
