"""A Postgres that hangs (it takes connections and answers nothing) is as good as away, and said to be so in time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psycopg
import pytest
import sqlalchemy as sa
from billing.v1 import entitlement_pb2, error_reason_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from billing_service.deadline import deadline_after
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.database import Connection, Database
from billing_service.storage.schema import migrate
from sandbox.postgres import FORGETFUL, EmbeddedPostgres
from tests.integration.program.conftest import BOUND_S, serving

REQUEST = entitlement_pb2.GetEntitlementsRequest(customer_id="ann")


@pytest.fixture
def own_postgres(reachable_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server that no other test shares."""
    with EmbeddedPostgres(reachable_folder / "hanging", settings=FORGETFUL) as server:
        yield server


@contextmanager
def hanging(server: EmbeddedPostgres) -> Iterator[None]:
    """Stop every process of a server, as a stuck disk or machine would, and let them go on."""
    assert server.pid is not None
    with psycopg.connect(server.url(), autocommit=True) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
    processes = [server.pid, *(pid for (pid,) in rows)]
    stopped = []
    try:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)  # and cannot end: the number stays its own
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


async def test_a_read_of_a_hanging_database_is_unavailable_before_the_callers_deadline(
    own_postgres: EmbeddedPostgres,
) -> None:
    """From the first call on, whose connection was good a moment ago: the answer is ours, with when to come again."""
    url = own_postgres.url()
    migrate(url)
    async with serving(url, "http://127.0.0.1:9") as program:
        await program.billing.GetEntitlements(REQUEST, timeout=BOUND_S)
        with hanging(own_postgres):
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await program.billing.GetEntitlements(REQUEST, timeout=2)
                assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
                status = rpc_status.from_call(raised.value)
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                assert any(detail.Unpack(info) for detail in status.details)
                assert any(detail.Unpack(retry) for detail in status.details)
                assert f"ERROR_REASON_{info.reason}" == error_reason_pb2.ErrorReason.Name(
                    error_reason_pb2.ERROR_REASON_DATABASE_UNAVAILABLE
                )
        await program.serving()
        await program.billing.GetEntitlements(REQUEST, timeout=BOUND_S)


async def test_a_transaction_that_was_given_up_leaves_no_lock_behind(database_url: str) -> None:
    """Its connection is closed, not cancelled politely; the server notices that and lets go."""
    database = Database(database_url)

    async def wait_for_lock(connection: Connection) -> None:
        await connection.execute(sa.text("LOCK TABLE prices IN ACCESS EXCLUSIVE MODE"))
        await connection.execute(sa.text("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE"))

    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        with deadline_after(0.3), pytest.raises(DatabaseUnavailableError):
            await database.run(wait_for_lock)
        # While the blocker still holds on: what was given up must not.
        with psycopg.connect(database_url, options="-c lock_timeout=5s") as other:
            other.execute("LOCK TABLE prices IN ACCESS EXCLUSIVE MODE")
    await database.check()
    await database.close()
