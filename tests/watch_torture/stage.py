"""The programs: a PostgreSQL, two services on it that share a clock, and whatever brings them down and up again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import grpc
import psycopg
from billing.internal.v1.fulfillment_service_pb2 import FulfillRequest, FulfillResult, VerifiedEvent
from billing.v1.entitlement_pb2 import BatchGetEntitlementsRequest, GetEntitlementsRequest

from billing_service.storage.schema import migrate
from sandbox.ports import free_port
from sandbox.postgres import FORGETFUL, EmbeddedPostgres
from tests.integration.program.conftest import Process, serving
from tests.watch_torture.told import told_of

NOWHERE = "http://127.0.0.1:9"
RETENTION_DAYS = 31  # the least: a process trims as it starts, so that cursors grow too old within a run
LONGEST_S = 120.0  # for anything to come back; far beyond what it takes
CALL_S = 10.0
PAUSE_S = 0.05
READ_AT_ONCE = 50
START_S = 240.0  # for a program to start: two seconds of a processor, of which a busy machine gives little
_APPLIED = {FulfillResult.OUTCOME_APPLIED, FulfillResult.OUTCOME_DUPLICATE}


class Server:
    """One service, again and again on the same port."""

    def __init__(self, database_url: str, port: int, settings: Mapping[str, str]) -> None:
        """Nothing runs before `start`."""
        self.address = f"127.0.0.1:{port}"
        self._serving = partial(serving, database_url, NOWHERE, port, bound_s=START_S, more=settings)
        self._running: AbstractAsyncContextManager[Process] | None = None
        self.process: Process | None = None

    async def start(self) -> None:
        """Start it, and come back when it serves."""
        running = self._serving()
        self.process = await running.__aenter__()
        self._running = running

    async def kill(self) -> None:
        """Kill it as the kernel would."""
        running, self._running, self.process = self._running, None, None
        if running is not None:
            await running.__aexit__(None, None, None)

    async def again(self) -> None:
        """Kill it and start it again."""
        await self.kill()
        await self.start()


class Stage:
    """All of them."""

    def __init__(self, folder: Path) -> None:
        """Start PostgreSQL; the thread must live as long as it."""
        self._postgres = EmbeddedPostgres(folder / "postgres", port=free_port(), settings=FORGETFUL)
        self._postgres.start()
        self.database_url = self._postgres.ensure_database("billing")
        migrate(self.database_url)
        self._clock = folder / "clock"
        self._offset_s = 0
        settings = {"BILLING_SANDBOX_CLOCK": str(self._clock), "BILLING_HISTORY_RETENTION_DAYS": str(RETENTION_DAYS)}
        self.servers = [Server(self.database_url, free_port(), settings) for _ in range(2)]

    async def start(self) -> None:
        """Start both services."""
        await asyncio.gather(*(server.start() for server in self.servers))

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(server.kill() for server in self.servers), return_exceptions=True)
        await asyncio.to_thread(self._postgres.stop)

    def now(self) -> int:
        """Give the time of the services."""
        return int(time.time()) + self._offset_s

    def advance(self, seconds: int) -> None:
        """Move the time on."""
        self._offset_s += seconds
        new = self._clock.with_suffix(".new")
        new.write_text(str(self._offset_s))
        new.replace(self._clock)

    def restart_postgres(self) -> None:
        """Stop PostgreSQL, so that every transaction that is open is lost, and start it again. From the thread that started it."""
        self._postgres.stop()
        self._postgres.start()

    async def send(self, bodies: Sequence[bytes], first: int) -> None:
        """Have events applied by the one server or, where it fails, the other: in the end each is, once."""
        request = FulfillRequest(events=[VerifiedEvent(payload=body) for body in bodies])
        deadline = time.monotonic() + LONGEST_S
        turn = first
        while True:
            process = self.servers[turn % 2].process
            try:
                if process is not None:
                    answer = await process.fulfillment.Fulfill(request, metadata=process.metadata, timeout=CALL_S)
                    if {result.outcome for result in answer.results} <= _APPLIED:
                        return
                    raise AssertionError(f"events were not applied: {answer.results}")
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                    raise  # otherwise the channel was closed under the call
                if time.monotonic() > deadline:
                    raise
            turn += 1
            await asyncio.sleep(PAUSE_S)

    def ask(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Ask the database; it may be on its way up."""
        deadline = time.monotonic() + LONGEST_S
        while True:
            try:
                with psycopg.connect(self.database_url, connect_timeout=5) as connection:
                    return connection.execute(statement, values).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_S)

    async def answers(self, number: int, names: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Give what one server answers of everybody."""
        process = self.servers[number].process
        assert process is not None
        found = {}
        for begin in range(0, len(names), READ_AT_ONCE):
            some = [GetEntitlementsRequest(customer_id=name) for name in names[begin : begin + READ_AT_ONCE]]
            request = BatchGetEntitlementsRequest(requests=some)
            for one in (await process.billing.BatchGetEntitlements(request, timeout=CALL_S)).responses:
                found[one.customer_id] = (one.revision, told_of(one))
        return found
