"""The service as the process that it is, which tests can kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
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
START_BOUND_S = 240  # three processes that start at once on a busy machine

_COMMAND = (sys.executable, "-m", "billing_service", "serve")


class Process:
    """One running `billing-service serve`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        grpc_address: str,
        internal: str,
        ops: str,
        environment: Mapping[str, str],
    ) -> None:
        self._process = process
        self._environment = environment
        self.ops = ops
        self.grpc_address = grpc_address
        self._public = grpc.aio.insecure_channel(grpc_address)
        self._internal = grpc.aio.insecure_channel(internal)
        self.billing = billing_service_pb2_grpc.BillingServiceStub(self._public)
        self.fulfillment = fulfillment_service_pb2_grpc.FulfillmentServiceStub(self._internal)
        self.metadata = (("authorization", f"Bearer {TOKEN}"),)

    async def serving(self, bound_s: float = START_BOUND_S) -> None:
        """Wait until health says that it serves."""
        health = health_pb2_grpc.HealthStub(self._public)
        async with asyncio.timeout(bound_s):
            async for answer in health.Watch(health_pb2.HealthCheckRequest()):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def ended(self) -> int:
        """Wait for its end, and give its exit code; the caller bounds it."""
        return await self._process.wait()

    async def another(self, settings: Mapping[str, str]) -> tuple[int | None, str]:
        """Start a second one with the same settings but these, and give its exit code and its words."""
        other = await asyncio.create_subprocess_exec(
            *_COMMAND, stderr=asyncio.subprocess.PIPE, env={**self._environment, **settings}, cwd=ROOT
        )
        async with asyncio.timeout(START_BOUND_S):
            _, said = await other.communicate()
        return other.returncode, said.decode()

    @staticmethod
    def stub_of(channel: grpc.aio.Channel) -> billing_service_pb2_grpc.BillingServiceAsyncStub:
        """Give the public service on a channel of the test's own."""
        return billing_service_pb2_grpc.BillingServiceStub(channel)

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
    *,
    folder: Path = ROOT,
    bound_s: float = START_BOUND_S,
    more: Mapping[str, str] | None = None,
) -> AsyncIterator[Process]:
    """Start the program of a folder on free ports, or on this one for callers, and give it once it serves; `more` are settings."""
    environment = os.environ | {
        "BILLING_DATABASE_URL": database_url,
        "BILLING_STRIPE_API_KEY": KEY,
        "BILLING_STRIPE_API_BASE": stripe_url,
        "BILLING_CATALOG": str(folder / "catalog.toml"),
        "BILLING_INTERNAL_TOKEN": TOKEN,
        "BILLING_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
        "BILLING_INTERNAL_ADDRESS": "127.0.0.1:0",
        "BILLING_OPS_ADDRESS": "127.0.0.1:0",
        "BILLING_DRAIN_DELAY_S": "0",
        **(more or {}),
    }
    started = await asyncio.create_subprocess_exec(
        *_COMMAND, stderr=asyncio.subprocess.PIPE, env=environment, cwd=folder
    )
    try:
        listening = await _line(started, "listening", bound_s)
    except BaseException:
        with suppress(ProcessLookupError):  # it may have ended by itself
            started.kill()
        await started.communicate()
        raise
    draining = asyncio.create_task(_drain(started))
    process = Process(started, listening["grpc"], listening["internal"], listening["ops"], environment)
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
