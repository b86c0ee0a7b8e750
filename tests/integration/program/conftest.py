"""The service as the process that it is, which tests can kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from billing.internal.v1 import fulfillment_service_pb2_grpc
from billing.v1 import billing_service_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).parents[3]
KEY = "sk_test_program"
TOKEN = "a-token-of-the-tests"
BOUND_S = 30  # for anything that a test waits for; far beyond what it takes


class Process:
    """One running `billing-service serve`."""

    def __init__(self, process: asyncio.subprocess.Process, grpc_address: str, internal: str, ops: str) -> None:
        self._process = process
        self.ops = ops
        self.grpc_address = grpc_address
        self._public = grpc.aio.insecure_channel(grpc_address)
        self._internal = grpc.aio.insecure_channel(internal)
        self.billing = billing_service_pb2_grpc.BillingServiceStub(self._public)
        self.fulfillment = fulfillment_service_pb2_grpc.FulfillmentServiceStub(self._internal)
        self.metadata = (("authorization", f"Bearer {TOKEN}"),)

    async def serving(self, bound_s: float = BOUND_S) -> None:
        """Wait until health says that it serves."""
        health = health_pb2_grpc.HealthStub(self._public)
        async with asyncio.timeout(bound_s):
            async for answer in health.Watch(health_pb2.HealthCheckRequest()):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    async def kill(self) -> None:
        """Kill it as the kernel would when memory runs out."""
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    def terminate(self) -> None:
        """Ask it to stop, as an orchestrator does."""
        self._process.send_signal(signal.SIGTERM)

    async def close(self) -> None:
        """Kill what still runs."""
        await self._public.close()
        await self._internal.close()
        if self._process.returncode is None:
            await self.kill()


@asynccontextmanager
async def serving(
    database_url: str,
    stripe_url: str,
    grpc_port: int = 0,
    settings: Mapping[str, str] | None = None,
    bound_s: float = BOUND_S,
) -> AsyncIterator[Process]:
    """Start the program on free ports, or on this one for callers, and give it once it serves; `settings` beside its own."""
    environment = os.environ | {
        "BILLING_DATABASE_URL": database_url,
        "BILLING_STRIPE_API_KEY": KEY,
        "BILLING_STRIPE_API_BASE": stripe_url,
        "BILLING_CATALOG": str(ROOT / "catalog.toml"),
        "BILLING_INTERNAL_TOKEN": TOKEN,
        "BILLING_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
        "BILLING_INTERNAL_ADDRESS": "127.0.0.1:0",
        "BILLING_OPS_ADDRESS": "127.0.0.1:0",
        **(settings or {}),
    }
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", "serve"), stderr=asyncio.subprocess.PIPE, env=environment, cwd=ROOT
    )
    try:
        listening = await _line(started, "listening", bound_s)
    except BaseException:
        started.kill()
        await started.wait()
        raise
    draining = asyncio.create_task(_drain(started))
    process = Process(started, listening["grpc"], listening["internal"], listening["ops"])
    try:
        await process.serving(bound_s)
        yield process
    finally:
        await process.close()
        await draining


async def _line(process: asyncio.subprocess.Process, event: str, bound_s: float) -> dict[str, Any]:
    """Read the log until a line with this event."""
    assert process.stderr is not None
    async with asyncio.timeout(bound_s):
        async for line in process.stderr:
            if line.startswith(b"{") and (entry := json.loads(line)).get("event") == event:
                found: dict[str, Any] = entry
                return found
    raise AssertionError(f"the program ended without {event!r}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read the log to its end, or the pipe would fill."""
    assert process.stderr is not None
    while await process.stderr.read(65536):
        pass
