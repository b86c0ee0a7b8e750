"""The program as an operator meets it: its commands, exit codes, health, and how it lives through a database that is away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import grpc
import psycopg
import pytest
from billing.internal.v1 import fulfillment_service_pb2, fulfillment_service_pb2_grpc
from billing.v1 import billing_service_pb2, billing_service_pb2_grpc, entitlement_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types

_ROOT = Path(__file__).parents[2]
_TOKEN = "a-token-of-the-gateway"
_LIMIT_S = 60
_AWAY = "postgresql://billing:hunter2@127.0.0.1:1/billing"


def _environment(database_url: str, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    return {
        **clean,
        "BILLING_DATABASE_URL": database_url,
        "BILLING_STRIPE_API_KEY": "sk_test_hunter2",
        "BILLING_STRIPE_API_BASE": "http://127.0.0.1:1",  # nobody answers there
        "BILLING_CATALOG": str(_ROOT / "catalog.toml"),
        "BILLING_INTERNAL_TOKEN": _TOKEN,
        "BILLING_GRPC_ADDRESS": "127.0.0.1:0",
        "BILLING_INTERNAL_ADDRESS": "127.0.0.1:0",
        "BILLING_OPS_ADDRESS": "127.0.0.1:0",
        "BILLING_DRAIN_DELAY_S": "0",
        **more,
    }


async def _start(command: str, environment: Mapping[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "billing_service", command, env=environment, stderr=asyncio.subprocess.PIPE
    )


async def _run(command: str, environment: Mapping[str, str]) -> tuple[int | None, str]:
    process = await _start(command, environment)
    async with asyncio.timeout(_LIMIT_S):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


@dataclass
class _Service:
    process: Process
    lines: list[dict[str, Any]]

    async def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Read the log until a line of this kind."""
        assert self.process.stderr is not None
        async with asyncio.timeout(_LIMIT_S):
            async for raw in self.process.stderr:
                line = json.loads(raw)
                self.lines.append(line)
                if line["event"] == event and fields.items() <= line.items():
                    return dict(line)
        raise AssertionError(f"the service ended without {event}: {self.lines}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        assert self.process.stderr is not None
        async with asyncio.timeout(_LIMIT_S):
            self.lines += [json.loads(raw) async for raw in self.process.stderr]
            return await self.process.wait()


@asynccontextmanager
async def _serving(environment: Mapping[str, str]) -> AsyncIterator[_Service]:
    service = _Service(await _start("serve", environment), [])
    try:
        yield service
    finally:
        if service.process.returncode is None:
            service.process.kill()
            await service.process.wait()


async def _readyz(ops: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{ops}/livez") as live:
            assert live.status == 200
        async with session.get(f"http://{ops}/readyz") as response:
            return response.status, await response.json()


def _billing(channel: grpc.aio.Channel) -> billing_service_pb2_grpc.BillingServiceAsyncStub:
    return billing_service_pb2_grpc.BillingServiceStub(channel)


async def _health(address: str) -> str:
    """Ask for the health of the whole server."""
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


class _Wire:
    """A port of its own in front of another one; can be cut, with whatever goes through it, and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._through: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._through):
            task.cancel()
        await asyncio.gather(*self._through, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass(reader, writer))
        self._through.add(task)
        task.add_done_callback(self._through.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._there)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, there_writer))
                group.create_task(_copy(there_reader, writer))
        finally:
            writer.transport.abort()
            there_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def test_serves_while_stripe_is_away_and_says_so_only_as_a_warning(database_url: str) -> None:
    async with _serving(_environment(database_url)) as service:
        where = await service.until("listening")
        await service.until("readiness", ready=True)
        status, body = await _readyz(where["ops"])
        async with grpc.aio.insecure_channel(where["grpc"]) as channel:
            answer = await _billing(channel).GetEntitlements(entitlement_pb2.GetEntitlementsRequest(customer_id="u1"))
            plans = await _billing(channel).ListPlans(billing_service_pb2.ListPlansRequest())
        assert await service.stop() == 0
    assert (status, body["ready"], body["checks"]) == (200, True, {"database": "ok", "schema": "ok"})
    assert body["warnings"]
    assert list(answer.plan_keys) == ["free"]
    assert not any(price.available for plan in plans.plans for price in plan.prices)
    assert service.lines[-1]["event"] == "stopped"


async def test_a_malformed_event_is_quarantined_through_the_real_listener(database_url: str) -> None:
    async with _serving(_environment(database_url)) as service:
        where = await service.until("listening")
        await service.until("readiness", ready=True)
        async with grpc.aio.insecure_channel(where["internal"]) as channel:
            stub: Any = fulfillment_service_pb2_grpc.FulfillmentServiceStub(channel)
            events = [fulfillment_service_pb2.VerifiedEvent(payload=b"\xff")]
            answer = await stub.Fulfill(
                fulfillment_service_pb2.FulfillRequest(events=events),
                metadata=(("authorization", f"Bearer {_TOKEN}"),),
            )
        assert await service.stop(signal.SIGINT) == 0
    assert [result.outcome for result in answer.results] == [fulfillment_service_pb2.FulfillResult.OUTCOME_QUARANTINED]


async def test_starts_without_a_schema_and_serves_as_soon_as_it_is_there(empty_database_url: str) -> None:
    environment = _environment(empty_database_url)
    async with _serving(environment) as service:
        where = await service.until("listening")
        await service.until("readiness", ready=False)
        status, body = await _readyz(where["ops"])
        assert (status, body["checks"]["database"]) == (503, "ok")
        assert "migrate" in body["checks"]["schema"]
        assert (await _run("migrate", environment))[0] == 0
        await service.until("readiness", ready=True)
        assert (await _readyz(where["ops"]))[0] == 200
        assert await service.stop() == 0


async def test_migrating_again_is_fine_and_needs_neither_key_nor_token(database_url: str) -> None:
    environment = {**_environment(database_url), "BILLING_STRIPE_API_KEY": "", "BILLING_INTERNAL_TOKEN": ""}
    assert (await _run("migrate", environment))[0] == 0


async def test_starts_while_the_database_is_away_and_refuses_calls_with_words() -> None:
    async with _serving(_environment(_AWAY)) as service:
        where = await service.until("listening")
        await service.until("readiness", ready=False)
        status, body = await _readyz(where["ops"])
        async with grpc.aio.insecure_channel(where["grpc"]) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _billing(channel).GetEntitlements(
                    entitlement_pb2.GetEntitlementsRequest(customer_id="u1"), timeout=20
                )
        assert await service.stop() == 0
    assert (status, body["checks"]["database"]) == (503, "does not answer")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "hunter2" not in json.dumps(service.lines)


async def test_health_follows_a_database_that_goes_away_and_comes_back(database_url: str) -> None:
    there = urlsplit(database_url)
    async with _Wire(there.hostname or "", there.port or 0) as wire:
        url = there._replace(netloc=f"{there.netloc.rpartition('@')[0]}@127.0.0.1:{wire.port}").geturl()
        async with _serving(_environment(url)) as service:
            where = await service.until("listening")
            for _ in range(2):
                await service.until("readiness", ready=True)
                assert await _health(where["internal"]) == await _health(where["grpc"]) == "SERVING"
                await wire.cut()
                await service.until("readiness", ready=False)
                assert await _health(where["internal"]) == await _health(where["grpc"]) == "NOT_SERVING"
                await wire.mend()
            await service.until("readiness", ready=True)
            assert await service.stop() == 0


async def test_migrate_says_in_one_sentence_that_the_database_is_away() -> None:
    code, errors = await _run("migrate", _environment(_AWAY))
    assert code == 1
    assert "does not answer" in errors
    assert "Traceback" not in errors
    assert "hunter2" not in errors


def test_a_port_in_use_ends_the_start_with_one_line(database_url: str) -> None:
    """Each of the three ports; one after another in one process, which takes as long to start as all of them to fail."""
    script = """
import os, sys
from billing_service.cli import main
for name in sys.argv[2:]:
    os.environ[name], free = sys.argv[1], os.environ[name]
    print(main(["serve"]))
    os.environ[name] = free
"""
    names = ("BILLING_GRPC_ADDRESS", "BILLING_INTERNAL_ADDRESS", "BILLING_OPS_ADDRESS")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", script, address, *names],
            env=_environment(database_url), cwd=_ROOT, capture_output=True, text=True, check=True, timeout=_LIMIT_S,
        )  # fmt: skip
    assert done.stdout.split() == ["1"] * len(names)
    for name, line in zip(names, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"billing-service serve cannot start. {name}: cannot listen on {address}: ")


async def test_mistakes_in_the_settings_are_all_named_and_end_the_start() -> None:
    environment = {**_environment("mysql://x:hunter2@y"), "BILLING_INTERNAL_TOKEN": ""}
    code, errors = await _run("serve", environment)
    assert code == 2
    assert [line.partition(":")[0] for line in errors.splitlines()[1:]] == [
        "BILLING_DATABASE_URL",
        "BILLING_INTERNAL_TOKEN",
    ]
    assert "hunter2" not in errors


async def test_mistakes_in_the_catalog_are_all_named_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text('default_plan = "fre"\n[features.a]\ntype = "number"\n', encoding="utf-8")
    code, errors = await _run("serve", _environment(_AWAY, BILLING_CATALOG=str(path)))
    assert code == 2
    assert "default_plan" in errors
    assert "features.a" in errors
    assert "Traceback" not in errors
    path.write_bytes(b"\xff")
    assert await _run("serve", _environment(_AWAY, BILLING_CATALOG=str(path))) == (
        2,
        "billing-service serve cannot start:\nBILLING_CATALOG: must be UTF-8 text\n",
    )


async def test_a_catalog_without_a_plan_that_customers_have_ends_the_start_before_it_is_ready(
    database_url: str, tmp_path: Path
) -> None:
    """The plan and how many have it are named, with what to do; put back, it starts."""
    facts = {"purchases": [{"checkout_session_id": "cs_1", "plan_key": "export_pass", "quantity": 1, "created": 1}]}
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO customers (customer_id, facts) VALUES ('ann', %s)", [json.dumps(facts)])
        connection.execute("INSERT INTO prices VALUES ('price_1', 'export_pass', 'once', 'export_pass', true, true)")
    whole = (Path(__file__).parents[2] / "catalog.toml").read_text(encoding="utf-8")
    path = tmp_path / "catalog.toml"
    path.write_text(whole.partition("[plans.export_pass]")[0], encoding="utf-8")
    environment = _environment(database_url, BILLING_CATALOG=str(path))
    code, errors = await _run("serve", environment)
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith("billing-service serve cannot start: the catalog has lost plans that customers have: ")
    assert '"export_pass" (customers: 1)' in last
    assert "deactivate its prices at Stripe" in last
    assert '"ready": true' not in errors
    path.write_text(whole, encoding="utf-8")
    async with _serving(environment) as service:
        await service.until("readiness", ready=True)
        assert await service.stop() == 0


def test_a_command_imports_no_more_than_it_needs() -> None:
    """What settles a mistake in the settings answers before the database's, Stripe's and gRPC's libraries are there."""
    script = """
import sys
from billing_service.cli import main
code = main(["serve"])
late = ("alembic", "sqlalchemy", "stripe", "grpc", "aiohttp")
print(code, [name for name in late if name in sys.modules])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=_LIMIT_S,
    )
    assert done.stdout == "2 []\n"


async def test_an_unknown_command_is_a_usage_error() -> None:
    assert (await _run("sevre", _environment(_AWAY)))[0] == 2
