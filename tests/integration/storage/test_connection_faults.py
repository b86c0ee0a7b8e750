"""The connection where something breaks: the network, the server, a prepared statement, whoever uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.connection import Connection
from billing_service.storage.database import Database
from tests.postgres_proxy import PostgresProxy

_ONE = sa.text("SELECT 1 AS one")
_FAILS = sa.text("SELECT 1 / (SELECT 0) AS none")
_KEEP = sa.text("INSERT INTO kept (number) VALUES (:number) ON CONFLICT DO NOTHING")
_COUNT = sa.text("SELECT count(*) FROM kept")
_ALL = sa.text("SELECT * FROM kept")
_COMMITTED = b"COMMIT\0"  # the tag of PostgreSQL's answer


@pytest.fixture
async def network(database_url: str) -> AsyncIterator[PostgresProxy]:
    """The network between us and a database with a table."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept (number bigint PRIMARY KEY)")
    async with PostgresProxy(database_url).run() as proxy:
        yield proxy


@pytest.fixture
async def database(network: PostgresProxy) -> AsyncIterator[Database]:
    """Our side of it."""
    made = Database(network.url, pool_size=3)
    yield made
    await made.close()


def kept(url: str) -> list[int]:
    """What is in the table, by a connection of its own."""
    with psycopg.connect(url) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM kept ORDER BY number")]


async def three_at_once(database: Database) -> None:
    """Have three connections in the pool."""
    met = asyncio.Barrier(3)

    async def work(connection: Connection) -> None:
        await connection.execute(_ONE)
        await met.wait()

    await asyncio.gather(*(database.run(work) for _ in range(3)))


async def test_a_commit_whose_answer_is_lost_is_run_again_and_counts_once(
    network: PostgresProxy, database: Database, database_url: str
) -> None:
    """It was committed, and nobody here can know: so it is run again, which finds what the first run wrote."""
    lost: list[bytes] = []

    def lose_the_first(piece: bytes) -> bool:
        if _COMMITTED not in piece or lost:
            return False
        lost.append(piece)
        return True

    network.cut_at_answer = lose_the_first
    result = await database.run(lambda connection: connection.execute(_KEEP, {"number": 1}))
    assert (len(lost), result.rowcount, kept(database_url)) == (1, 0, [1])


async def test_a_commit_whose_answer_is_lost_each_time_is_unknown_and_no_fault_of_the_data(
    network: PostgresProxy, database: Database, database_url: str
) -> None:
    network.cut_at_answer = lambda piece: _COMMITTED in piece
    with pytest.raises(DatabaseUnavailableError):
        await database.run(lambda connection: connection.execute(_KEEP, {"number": 1}))
    assert kept(database_url) == [1]


async def test_a_server_that_is_gone_costs_no_caller_whatever_the_pool_still_holds(
    network: PostgresProxy, database: Database
) -> None:
    """The host was started anew and knows none of the connections: each dies when something is sent, none before."""
    await three_at_once(database)
    stale = network.connections

    def forget(piece: bytes) -> bool:
        return b"BEGIN" in piece or b"\0s" in piece

    network.cut_at_request = forget
    waiting = asyncio.create_task(database.run(lambda connection: connection.scalar(_ONE)))
    async with asyncio.timeout(30):
        while network.connections == stale and not waiting.done():  # noqa: ASYNC110 - until it connects anew
            await asyncio.sleep(0.001)
    network.cut_at_request = lambda _: False
    assert await waiting == 1


async def test_a_statement_whose_plan_a_migration_has_changed_is_run_on_a_new_connection(
    database: Database, database_url: str
) -> None:
    """PostgreSQL refuses a prepared statement for good once its columns have changed: the next try prepares anew."""
    await three_at_once(database)
    for _ in range(3):
        assert (await database.run(lambda connection: connection.execute(_ALL))).all() == []
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE kept ADD COLUMN note text")
    for _ in range(3):
        assert (await database.run(lambda connection: connection.execute(_ALL))).all() == []


async def test_a_statement_that_the_server_has_forgotten_is_prepared_anew(database: Database) -> None:
    """Whatever stands in between may have handed the connection to another server."""

    async def forget(connection: Connection) -> None:
        await connection.execute(_COUNT)
        await connection.execute(sa.text("DEALLOCATE ALL"))
        await connection.execute(_COUNT)

    with pytest.raises(DatabaseUnavailableError):  # both tries forget
        await database.run(forget)
    assert await database.run(lambda connection: connection.scalar(_COUNT)) == 0


async def test_a_failure_that_is_heard_before_anything_is_awaited_leaves_no_transaction_behind(
    database_url: str,
) -> None:
    """PostgreSQL passes over all that follows a failure until it is told to synchronise; the ROLLBACK, too."""
    only = Database(database_url, pool_size=1)

    async def work(connection: Connection) -> None:
        failing = connection.send(_FAILS)
        connection._pgconn.flush()
        async with asyncio.timeout(30):
            while failing.error is None:  # noqa: ASYNC110 - across a socket nothing can be waited for
                await asyncio.sleep(0.001)
        await failing

    try:
        for _ in range(2):
            with pytest.raises(Exception, match="22012"):
                await only.run(work)
            assert await only.run(lambda connection: connection.scalar(_ONE)) == 1
    finally:
        await only.close()


async def test_a_connection_that_is_found_lost_while_sending_no_longer_listens_to_its_socket(
    database_url: str,
) -> None:
    """By then libpq has closed it: its number is the next one's, whose events would be taken for ours."""
    loop = asyncio.get_running_loop()
    large = sa.text("SELECT length(CAST(:text AS text)) AS length")
    listening: list[bool] = []

    async def work(connection: Connection) -> None:
        own = await connection.scalar(sa.text("SELECT pg_backend_pid()"))
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (own,))
        try:
            for _ in range(100):
                connection.send(large, {"text": "x" * 1_000_000})
        except psycopg.OperationalError:
            listening.append(loop.remove_reader(connection._socket))
            raise

    direct = Database(database_url, pool_size=1)
    try:
        with pytest.raises(DatabaseUnavailableError):
            await direct.run(work)
    finally:
        await direct.close()
    assert listening
    assert not any(listening)


async def test_a_second_task_on_a_connection_is_refused_and_the_first_goes_on(database: Database) -> None:
    """Both would wait for one answer, and one of them for ever."""

    async def work(connection: Connection) -> Any:
        first = asyncio.create_task(connection.scalar(sa.text("SELECT pg_sleep(0)")))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await connection.scalar(_ONE)
        await first
        return await connection.scalar(_ONE)

    assert await database.run(work) == 1


async def test_a_network_that_stands_still_ends_a_wait_and_what_was_begun(
    network: PostgresProxy, database: Database, database_url: str
) -> None:
    """Nothing is known of it here; what the server got of it is undone there, and the pool goes on."""

    async def work(connection: Connection) -> None:
        await connection.execute(_KEEP, {"number": 1})
        network.flowing.clear()
        await connection.execute(_KEEP, {"number": 2})

    with pytest.raises(DatabaseUnavailableError):
        await database.run(work, limit_s=0.3)
    assert database.in_use == 0
    network.flowing.set()
    assert await database.run(lambda connection: connection.scalar(_ONE)) == 1
    assert kept(database_url) == []


async def test_a_connection_cut_in_the_middle_of_many_answers_tells_each_that_it_was_lost(
    network: PostgresProxy, database: Database
) -> None:
    many = sa.text("SELECT repeat('x', 100000) AS text")
    passed: list[int] = []

    def cut(piece: bytes) -> bool:
        passed.append(len(piece))
        return sum(passed) > 500_000

    async def work(connection: Connection) -> list[Any]:
        sent = [connection.send(many) for _ in range(20)]
        answers = await asyncio.gather(*(_awaited(one) for one in sent[-1:]), return_exceptions=True)
        return [*answers, *(one.error for one in sent)]

    network.cut_at_answer = cut
    with pytest.raises(DatabaseUnavailableError):
        await database.run(work)
    network.cut_at_answer = lambda _: False
    assert await database.run(lambda connection: connection.scalar(_ONE)) == 1


async def _awaited(answer: Any) -> Any:
    return await answer
