"""The connection in libpq's pipeline mode: values come back as they went, and no failure goes unheard."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows.admit_catalog import SCAN_LIMIT_S
from billing_service.storage.connection import Connection
from billing_service.storage.database import TRANSACTION_BOUND_S, Database
from billing_service.storage.erasures import IN_FLIGHT_S
from billing_service.storage.unwritable import UnwritableError
from sandbox.postgres import EmbeddedPostgres

_ROW = sa.text("SELECT 1 AS one")
_FAILS = sa.text("SELECT 1 / (SELECT 0) AS none")
_CONFLICTS = sa.text("DO $$ BEGIN RAISE EXCEPTION 'a deadlock' USING ERRCODE = '40P01'; END $$")
_KEEP = sa.text("INSERT INTO kept (number) VALUES (:number)")
_COUNT = sa.text("SELECT count(*) FROM kept")


class Colour(StrEnum):
    """A text that is more."""

    RED = "red"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """One connection, so that each test sees what the one before left on it."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept (number bigint PRIMARY KEY)")
    made = Database(database_url, pool_size=1)
    yield made
    await made.close()


async def value(database: Database, expression: str, given: Any) -> Any:
    """Send a value to PostgreSQL and have it back."""
    statement = sa.text(f"SELECT {expression} AS value")
    return await database.run(lambda connection: connection.scalar(statement, {"value": given}))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("text", "plain"),
        ("text", ""),
        ("text", "NULL"),
        ("text", "Zürich \N{SNOWMAN} 'quoted' \"twice\" back\\slash {braces}, comma\nline"),
        ("text", Colour.RED),
        ("text", None),
        ("boolean", True),
        ("boolean", False),
        ("bigint", -(2**63)),
        ("double precision", 0.1),
        ("uuid", uuid.UUID(int=7)),
        ("timestamptz", dt.datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=dt.UTC)),
        ("date", dt.date(2026, 2, 28)),
        ("interval", dt.timedelta(days=-3, microseconds=5)),
        ("bytea", b"\x00\xff\\x00"),
        ("bytea", b""),
        ("text[]", []),
        ("text[]", ["", "NULL", None, "null", 'a"b', "a\\b", "{x,y}", " lead", "\N{SNOWMAN}"]),
        ("text[]", ["", "x" * 4_095, "y" * 4_096, "z" * 70_000]),
        ("bigint[]", [1, None, -5]),
        ("bigint[]", [1, -5, 2**63 - 1]),
        ("boolean[]", [True, False, None]),
        ("boolean[]", [True, False]),
        ("uuid[]", [uuid.UUID(int=7), uuid.UUID(int=8)]),
        ("timestamptz[]", [dt.datetime(2026, 1, 1, tzinfo=dt.UTC), None]),
        ("bytea[]", [b"", b"\x00", b"{,}"]),
    ],
)
async def test_a_value_comes_back_as_it_went(database: Database, kind: str, given: Any) -> None:
    assert await value(database, f"CAST(:value AS {kind})", given) == given


@pytest.mark.parametrize(
    ("setting", "kind", "given"),
    [
        ("client_encoding = 'LATIN1'", "text", "Zürich \N{SNOWMAN}"),
        ("datestyle = 'German, DMY'", "timestamptz", dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC)),
        ("timezone = 'Asia/Kathmandu'", "timestamptz", dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC)),
        ("intervalstyle = 'iso_8601'", "interval", dt.timedelta(days=3, seconds=4)),
        ("bytea_output = 'escape'", "bytea", b"\x00\\\xff"),
        ("standard_conforming_strings = off", "text[]", ["a\\b"]),
    ],
)
async def test_a_database_with_settings_of_its_own_gives_and_takes_the_same(
    database: Database, database_url: str, setting: str, kind: str, given: Any
) -> None:
    """What a database or a role sets for its sessions is not what values are written and read by."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET {}").format(sql.Identifier(connection.info.dbname), sql.SQL(setting))
        )
    back, length = (
        await value(database, f"CAST(:value AS {kind})", given),
        await value(database, f"length(CAST(CAST(:value AS {kind}) AS text))", given),
    )
    assert back == given
    if isinstance(given, str):
        assert length == len(given)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_any_texts_come_back_as_they_went(any_url: str, texts: list[str | None]) -> None:
    async def there_and_back() -> Any:
        database = Database(any_url, pool_size=1)
        try:
            return await value(database, "CAST(:value AS text[])", texts)
        finally:
            await database.close()

    assert asyncio.run(there_and_back()) == texts


@pytest.fixture(scope="module")
def any_url(postgres: EmbeddedPostgres) -> str:
    """A database in which nothing is written."""
    return postgres.url("postgres")


@pytest.mark.parametrize("text", ["nul \0", "lone \ud800"])
async def test_a_text_that_no_database_takes_is_refused_before_it_is_sent(database: Database, text: str) -> None:
    arrays = [("text[]", ["before", text]), ("text[]", ["before", None, text]), ("varchar[]", [text])]
    for kind, one in [("text", text), *arrays]:
        with pytest.raises(UnwritableError) as refused:
            await value(database, f"CAST(:value AS {kind})", one)
        assert not refused.value.rule[0].isdigit()  # as PostgreSQL's own words would be
    assert await value(database, "CAST(:value AS text)", "next") == "next"


async def test_answers_belong_to_their_statements_in_whatever_order_they_are_awaited(database: Database) -> None:
    async def work(connection: Connection) -> list[int]:
        statement = sa.text("SELECT CAST(:number AS bigint) AS number")
        sent = [connection.send(statement, {"number": number}) for number in range(50)]
        return [(await answer).one().number for answer in reversed(sent)]

    assert await database.run(work) == list(reversed(range(50)))


async def test_a_statement_sees_what_was_sent_before_it(database: Database) -> None:
    async def work(connection: Connection) -> int:
        connection.send(_KEEP, {"number": 1})
        connection.send(_KEEP, {"number": 2})
        return int((await connection.send(_COUNT)).scalar_one())

    assert await database.run(work) == 2


async def test_what_is_pushed_is_begun_while_nobody_waits(database: Database, database_url: str) -> None:
    async def work(connection: Connection) -> None:
        connection.send(sa.text("SELECT pg_advisory_xact_lock(7)"))
        connection.push()
        with psycopg.connect(database_url, autocommit=True) as other:
            for _ in range(100_000):
                free = other.execute("SELECT pg_try_advisory_lock(7) AND pg_advisory_unlock(7)").fetchone()
                if free == (False,):
                    return
        raise AssertionError("it was never locked")

    await asyncio.wait_for(database.run(work), 10)


async def test_a_process_that_hangs_after_a_push_keeps_its_locks_for_a_bounded_time(database_url: str) -> None:
    """To the server it is about to go on, and not idle in its transaction."""
    database = Database(database_url, pool_size=1)
    bound = await database.run(lambda connection: connection.scalar(sa.text("SHOW transaction_timeout")))
    assert bound == f"{TRANSACTION_BOUND_S}s"
    assert SCAN_LIMIT_S < TRANSACTION_BOUND_S < IN_FLIGHT_S  # nothing may end later that an erasing has gone past

    async def work(connection: Connection) -> bool:
        await connection.execute(sa.text("SET LOCAL transaction_timeout = '300ms'"))
        await connection.execute(sa.text("SELECT pg_advisory_xact_lock(7)"))
        connection.send(_ROW)
        connection.push()
        with psycopg.connect(database_url, options="-c lock_timeout=10s") as other:  # while our loop stands still
            other.execute("SELECT pg_advisory_lock(7)")
        return True

    with pytest.raises(DatabaseUnavailableError):
        await database.run(work)
    await database.close()


async def test_a_failure_that_came_before_anybody_waited_is_heard_and_leaves_a_connection(database: Database) -> None:
    async def work(connection: Connection) -> None:
        failing = connection.send(_FAILS)
        connection.push()
        while failing.error is None:  # noqa: ASYNC110 - nothing but the answer itself says that it came
            await asyncio.sleep(0)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await failing
        connection.send(_KEEP, {"number": 1})

    with pytest.raises(UnwritableError):
        await asyncio.wait_for(database.run(work), 10)
    assert await database.run(lambda connection: connection.scalar(_COUNT)) == 0


async def test_a_failure_that_nobody_awaited_is_heard_at_the_commit_and_nothing_is_kept(database: Database) -> None:
    async def work(connection: Connection) -> None:
        connection.send(_KEEP, {"number": 1})
        connection.send(_KEEP, {"number": 1})
        connection.send(_ROW)

    with pytest.raises(UnwritableError) as refused:
        await database.run(work)
    assert refused.value.rule == "kept_pkey"
    assert await database.run(lambda connection: connection.scalar(_COUNT)) == 0


async def test_what_stands_behind_a_failure_fails_with_it_and_is_prepared_anew(database: Database) -> None:
    """A statement that PostgreSQL never got to see, because one before it failed, is not taken for prepared."""

    async def work(connection: Connection) -> None:
        connection.send(_FAILS)
        await connection.send(_COUNT)

    with pytest.raises(UnwritableError) as refused:
        await database.run(work)
    assert refused.value.rule == "22012"
    for _ in range(2):
        assert await database.run(lambda connection: connection.scalar(_COUNT)) == 0


async def test_who_comes_after_a_failure_that_nobody_awaited_hears_of_that_failure(database: Database) -> None:
    """It was answered together with what stands before it, which went well; what is sent then is refused for no reason of its own."""

    async def work(connection: Connection) -> object:
        first = connection.send(_ROW)
        connection.send(_FAILS)
        await first
        return await connection.execute(_ROW)

    with pytest.raises(UnwritableError, match="22012"):
        await database.run(work)
    assert (await database.run(lambda connection: connection.execute(_ROW))).scalar_one() == 1


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_conflict_that_nobody_awaited_is_run_again(database: Database, is_last: bool) -> None:
    """Of locks that were sent ahead one may end in a deadlock while the answer of another is awaited, and the COMMIT come next."""
    tries = 0

    async def work(connection: Connection) -> object:
        nonlocal tries
        tries += 1
        first = connection.send(_ROW)
        if tries == 1:
            connection.send(_CONFLICTS)
        row = await first
        return (row if is_last else await connection.execute(_ROW)).scalar_one()

    assert (await database.run(work), tries) == (1, 2)


async def test_a_failure_that_was_caught_commits_nothing(database: Database) -> None:
    async def work(connection: Connection) -> None:
        connection.send(_KEEP, {"number": 1})
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute(_FAILS)

    with pytest.raises(UnwritableError, match="22012"):
        await database.run(work)
    assert await database.run(lambda connection: connection.scalar(_COUNT)) == 0


async def test_much_in_both_directions_at_once_blocks_nobody(database: Database) -> None:
    """More than both sides' socket buffers hold, sent before anything is read."""
    many = "x" * 1_000_000

    async def work(connection: Connection) -> list[int]:
        statement = sa.text("SELECT CAST(:text AS text) AS text")
        sent = [connection.send(statement, {"text": many}) for _ in range(20)]
        return [len((await answer).one().text) for answer in sent]

    async with asyncio.timeout(60):
        assert await database.run(work) == [len(many)] * 20


async def test_who_gives_up_leaves_the_next_one_a_connection(database: Database, database_url: str) -> None:
    """The connection in use is closed, its transaction undone, and its place in the pool is free again."""

    async def work(connection: Connection) -> None:
        await connection.execute(_KEEP, {"number": 1})
        await connection.execute(sa.text("SELECT pg_sleep(60)"))

    with pytest.raises(DatabaseUnavailableError):
        await database.run(work, limit_s=0.5)
    assert await database.run(lambda connection: connection.scalar(_COUNT)) == 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        alive = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'billing-service'")
        assert alive.fetchone()


async def test_a_connection_that_the_server_closed_is_not_used_again(database: Database, database_url: str) -> None:
    own = await database.run(lambda connection: connection.scalar(sa.text("SELECT pg_backend_pid()")))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", (own,))
    assert await database.run(lambda connection: connection.scalar(sa.text("SELECT pg_backend_pid()"))) != own


async def test_a_server_that_ends_the_connection_when_all_was_answered_raises_nothing_in_the_loop(
    database: Database, database_url: str
) -> None:
    """It is told after a failure was heard and before the transaction is undone; the next one finds another connection."""
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, about: raised.append(about))

    async def work(connection: Connection) -> None:
        process = await connection.scalar(sa.text("SELECT pg_backend_pid()"))
        failing = connection.send(_FAILS)
        connection.push()
        while failing.error is None:  # noqa: ASYNC110 - nothing but the answer itself says that it came
            await asyncio.sleep(0)
        with psycopg.connect(database_url) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (process,))
        await failing

    with pytest.raises(UnwritableError, match="22012"):
        await database.run(work)
    assert (await database.run(lambda connection: connection.execute(_ROW))).scalar_one() == 1
    assert raised == []


async def test_who_waited_for_a_lock_reads_what_its_holder_wrote(database: Database, database_url: str) -> None:
    """A lock and the load behind it leave together; the load is of the moment at which the lock was given."""
    lock, load = sa.text("SELECT pg_advisory_xact_lock(7)"), sa.text("SELECT count(*) FROM kept")

    async def work(connection: Connection) -> int:
        connection.send(lock)
        return int((await connection.send(load)).scalar_one())

    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(7)")
        waiting = asyncio.create_task(database.run(work))
        async with asyncio.timeout(30):
            while holder.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):  # noqa: ASYNC110 - across a socket nothing can be waited for
                await asyncio.sleep(0.01)
        holder.execute("INSERT INTO kept VALUES (1), (2)")
        holder.commit()
        assert await waiting == 2


async def test_a_deadlock_is_a_conflict_and_is_run_again(database: Database, database_url: str) -> None:
    """Two that lock in opposite orders: PostgreSQL ends one, which comes again and gets through."""
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO kept VALUES (1), (2)")
    other = Database(database_url, pool_size=1)
    lock = sa.text("SELECT number FROM kept WHERE number = :number FOR UPDATE")
    met = asyncio.Barrier(2)
    tries = 0

    def locking(first: int, second: int) -> Any:
        async def work(connection: Connection) -> int:
            nonlocal tries
            tries += 1
            await connection.execute(lock, {"number": first})
            if tries <= 2:
                await met.wait()
            return int((await connection.execute(lock, {"number": second})).scalar_one())

        return work

    try:
        assert list(await asyncio.gather(database.run(locking(1, 2)), other.run(locking(2, 1)))) == [2, 1]
    finally:
        await other.close()
    assert tries == 3


async def test_a_serialization_failure_is_a_conflict_and_is_run_again(database: Database, database_url: str) -> None:
    """Another one changes what was read, and commits first: PostgreSQL says 40001, and the second try sees his change."""
    tries = 0

    async def work(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        await connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        seen = int((await connection.execute(sa.text("SELECT number FROM kept"))).scalar_one())
        if tries == 1:
            other.execute("UPDATE kept SET number = number + 10")
        await connection.execute(sa.text("UPDATE kept SET number = :number"), {"number": seen + 1})
        return seen

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("INSERT INTO kept VALUES (1)")
        assert await database.run(work) == 11
        assert other.execute("SELECT number FROM kept").fetchone() == (12,)
    assert tries == 2
