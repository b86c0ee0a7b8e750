"""An experiment, not a part of the product: an empty handler behind grpc.aio and behind grpcio's threaded server.

    taskset -c 0 python -m benchmarks.servers --rounds 5 --seconds 4

Without interceptors, 64 calls in flight, asked by h2load; the rounds alternate. Says medians and ratios to grpc.aio. Reads behind threads
are not measured: docs/architecture.md says why they are not wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
from billing.v1 import entitlement_pb2

from benchmarks.cores import h2load, request_body

ADDRESS: Final = "127.0.0.1:0"
THREADS: Final = (4, 64)
Answer = entitlement_pb2.GetEntitlementsResponse


def handlers(call: Callable[..., Any]) -> grpc.GenericRpcHandler:
    """Give a method for the contract's service."""
    method = grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=entitlement_pb2.GetEntitlementsRequest.FromString,
        response_serializer=Answer.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("billing.v1.BillingService", {"GetEntitlements": method})


async def aio(body: Path, seconds: int) -> float:
    """Give calls a second of grpc.aio."""

    async def empty(_request: Any, _context: Any) -> Answer:
        return Answer()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(empty),))
    port = server.add_insecure_port(ADDRESS)
    await server.start()
    rate, _ = await asyncio.to_thread(h2load, port, body, seconds)
    await server.stop(0)
    return rate


def threaded(body: Path, seconds: int, threads: int) -> float:
    """Give calls a second of the threaded server."""
    server = grpc.server(ThreadPoolExecutor(threads))
    server.add_generic_rpc_handlers((handlers(lambda _request, _context: Answer()),))
    port = server.add_insecure_port(ADDRESS)
    server.start()
    rate, _ = h2load(port, body, seconds)
    server.stop(0).wait()
    return rate


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"grpc.aio": [], **{f"{threads} threads": [] for threads in THREADS}}
    with tempfile.TemporaryDirectory() as folder:
        body = request_body(Path(folder))
        for _ in range(options.rounds):
            rates["grpc.aio"].append(asyncio.run(aio(body, options.seconds)))
            for threads in THREADS:
                rates[f"{threads} threads"].append(threaded(body, options.seconds, threads))
    for name, found in rates.items():
        ratio = statistics.median(one / other for one, other in zip(found, rates["grpc.aio"], strict=True))
        print(f"| {name} | {statistics.median(found):,.0f}/s | {ratio:.2f} |")  # noqa: T201 - a program for a terminal


if __name__ == "__main__":
    main()
