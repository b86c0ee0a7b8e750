"""The hot read: one query for whoever comes together, always fresh, by key alone, and nobody's trouble is a neighbour's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import msgspec
import psycopg
import pytest

from billing_service.deadline import deadline_after
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.domain.facts import NO_FACTS, PurchaseFacts
from billing_service.storage import customer_reads
from billing_service.storage.customer_reads import MAX_BATCH, QUIET_TURN_S, SETTINGS, STATEMENT, CustomerReads
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Database
from billing_service.storage.unwritable import UnwritableError

ODD = ["a b", 'quo"te', "back\\slash", "{brace}", "comma,", "NULL", "ümlaut", "日本", "%s", "x" * 200]
PURCHASE = {"checkout_session_id": "cs_1", "plan_key": "export_pass", "quantity": 1, "created": 1, "paid_time": 1}


@pytest.fixture
async def reads(database_url: str) -> AsyncIterator[CustomerReads]:
    database = Database(database_url)
    yield CustomerReads(database)
    await database.close()


def write(database_url: str, statement: str, *values: Any) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(statement, values)


def fill(database_url: str, count: int) -> None:
    write(
        database_url,
        "INSERT INTO customers (customer_id, revision) SELECT 'c' || n, n FROM generate_series(1, %s) n",
        count,
    )


async def executions(reads: CustomerReads) -> int:
    """Say how often the statement was run on the connection that the reads keep."""
    connection = reads._connection
    assert connection is not None
    cursor = await connection.execute(
        "SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE name = 'customer_rows'"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_who_comes_together_shares_one_query(reads: CustomerReads, database_url: str) -> None:
    fill(database_url, 200)
    rows = await asyncio.gather(*(reads.row(f"c{number}") for number in range(1, 201)))
    assert [row.revision for row in rows] == list(range(1, 201))
    assert await executions(reads) == 1


async def test_a_connection_that_cannot_be_prepared_is_not_kept(database_url: str) -> None:
    """On a replica of an older schema each read would leave one behind, until the server has no more to give."""
    database = Database(database_url)
    try:
        reads = CustomerReads(database, "PREPARE customer_rows AS SELECT missing FROM customers")
        for _ in range(3):
            with pytest.raises(psycopg.errors.UndefinedColumn):
                await reads.row("ann")
        assert all(connection.closed for connection in database._own)
    finally:
        await database.close()


async def test_a_defect_in_the_answering_is_heard_of_by_everybody_who_waits(
    reads: CustomerReads, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits out his deadline for an answer that was dropped on its way."""
    fill(database_url, 1)
    await reads.row("c1")

    def broken(*_: object) -> None:
        raise LookupError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(reads, "_deliver", broken)
        with deadline_after(20):
            heard = await asyncio.wait_for(asyncio.gather(reads.row("c1"), reads.row("c2"), return_exceptions=True), 8)
    assert [type(one) for one in heard] == [LookupError, LookupError]
    assert (await reads.row("c1")).revision == 1


async def test_the_same_customer_is_looked_up_once_for_all_who_ask(reads: CustomerReads, database_url: str) -> None:
    fill(database_url, 1)
    rows = await asyncio.gather(*(reads.row("c1") for _ in range(50)))
    assert {row.revision for row in rows} == {1}


async def test_callers_are_given_what_is_made_of_their_rows_and_hear_where_that_fails(database_url: str) -> None:
    """Of each row by itself: one of which nothing can be made is no trouble of its neighbours."""
    fill(database_url, 3)

    def made(row: CustomerRow) -> str:
        if row.revision == 2:
            raise LookupError("nothing")
        return f"{row.customer_id} at {row.revision}"

    database = Database(database_url)
    reads = CustomerReads(database, make=made)
    found = await asyncio.gather(*(reads.into(f"c{number}") for number in (1, 2, 3)), return_exceptions=True)
    assert (found[0], found[2]) == ("c1 at 1", "c3 at 3")
    assert isinstance(found[1], LookupError)
    await database.close()


async def test_what_one_caller_makes_of_a_row_is_no_trouble_of_the_next_who_asks_for_it(
    reads: CustomerReads, database_url: str
) -> None:
    """Each has steps of his own after the common ones; the last of three asks for a customer whose row is fine."""
    fill(database_url, 1)

    def fails(_: CustomerRow) -> str:
        raise LookupError("a defect of one caller's")

    asked = (reads.into("c1", fails), reads.into("c1", lambda row: row.revision), reads.into("c1", fails))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in found] == [LookupError, int, LookupError]
    assert (await reads.row("c1")).revision == 1


async def test_reads_that_come_one_at_a_time_in_a_busy_loop_share_queries(
    reads: CustomerReads, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn of the loop has work of its own, as with calls that gRPC hands over; a query has company then, however long that takes
    (within bounds that are set far off here), and what is left goes as soon as the loop is idle.
    """
    monkeypatch.setattr(customer_reads, "GATHER_S", 600.0)
    monkeypatch.setattr(customer_reads, "COMPANY_S", 600.0)
    fill(database_url, 40)
    await reads.row("c1")
    waiting = []
    for number in range(1, 41):
        waiting.append(asyncio.ensure_future(reads.row(f"c{number}")))
        end = perf_counter() + 2 * QUIET_TURN_S
        while perf_counter() < end:
            pass
        await asyncio.sleep(0)
    rows = await asyncio.gather(*waiting)
    assert [row.revision for row in rows] == list(range(1, 41))
    assert await executions(reads) == 3  # the first, one of as many as are enough, and the rest


async def test_a_read_sees_every_commit_before_it(reads: CustomerReads, database_url: str) -> None:
    """Nothing is kept: the revision and the facts are those of the last commit, each time."""
    fill(database_url, 1)
    for revision in range(2, 30):
        facts = json.dumps({"purchases": [PURCHASE | {"quantity": revision}]})
        write(database_url, "UPDATE customers SET revision = %s, facts = %s", revision, facts)
        row = await reads.row("c1")
        (purchase,) = row.facts.purchases
        assert (row.revision, purchase.quantity) == (revision, revision)
        assert isinstance(purchase, PurchaseFacts)


async def test_a_read_that_is_asked_for_while_another_is_on_its_way_is_not_answered_by_that_one(
    reads: CustomerReads, database_url: str
) -> None:
    """The row is locked away from the first query's snapshot by a commit in between: the second one has to see it."""
    fill(database_url, 1)
    await reads.row("c1")
    first = asyncio.create_task(reads.row("c1"))
    while not reads._sent:  # noqa: ASYNC110 - until it has left
        await asyncio.sleep(0)
    write(database_url, "UPDATE customers SET revision = 7")
    assert (await reads.row("c1")).revision == 7
    assert (await first).revision in {1, 7}


async def test_nobody_knows_them_and_that_is_no_error(reads: CustomerReads) -> None:
    row = await reads.row("nobody")
    assert (row.customer_id, row.revision, row.facts) == ("nobody", 0, NO_FACTS)


async def test_every_text_that_is_an_id_is_found_again(reads: CustomerReads, database_url: str) -> None:
    for number, name in enumerate(ODD):
        write(database_url, "INSERT INTO customers (customer_id, revision) VALUES (%s, %s)", name, number)
    rows = await asyncio.gather(*map(reads.row, ODD))
    assert [(row.customer_id, row.revision) for row in rows] == list(zip(ODD, range(len(ODD)), strict=True))


async def test_more_than_a_query_takes_go_with_the_next_one(reads: CustomerReads, database_url: str) -> None:
    """Keys of the greatest length, so that the query does not fit the socket at once either."""
    names = [f"{number:04}".ljust(200, "日") for number in range(4 * MAX_BATCH)]
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO customers (customer_id, revision) SELECT unnest(%s::text[]), 5", [names])
    rows = await asyncio.gather(*map(reads.row, names))
    assert [(row.customer_id, row.revision) for row in rows] == [(name, 5) for name in names]
    assert await executions(reads) == 4


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b"])
async def test_an_id_that_no_text_can_be_is_refused_alone(reads: CustomerReads, bad: str) -> None:
    good, refused = await asyncio.gather(reads.row("ann"), reads.row(bad), return_exceptions=True)
    assert isinstance(refused, UnwritableError)
    assert not isinstance(good, BaseException)


async def test_who_goes_away_takes_nobody_along(reads: CustomerReads, database_url: str) -> None:
    fill(database_url, 2)
    gone, stays = asyncio.create_task(reads.row("c1")), asyncio.create_task(reads.row("c2"))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).revision == 2
    assert (await reads.row("c1")).revision == 1


async def test_a_connection_that_was_lost_is_replaced_unnoticed(reads: CustomerReads, database_url: str) -> None:
    fill(database_url, 1)
    for _ in range(3):
        assert (await reads.row("c1")).revision == 1
        write(
            database_url,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()",
        )
    assert (await reads.row("c1")).revision == 1


async def test_a_row_that_cannot_be_read_is_no_trouble_of_its_neighbours(
    reads: CustomerReads, database_url: str
) -> None:
    """As a newer release may have written one."""
    fill(database_url, 2)
    write(database_url, "UPDATE customers SET facts = '{\"purchases\": 5}' WHERE customer_id = 'c1'")
    bad, good = await asyncio.gather(reads.row("c1"), reads.row("c2"), return_exceptions=True)
    assert isinstance(bad, msgspec.ValidationError)
    assert not isinstance(good, BaseException)
    assert (await reads.row("c2")).revision == 2


async def test_a_database_that_is_away_is_said_to_be(database_url: str) -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    reads = CustomerReads(database)
    answers = await asyncio.gather(*(reads.row(name) for name in ("ann", "bob")), return_exceptions=True)
    assert {type(answer) for answer in answers} <= {DatabaseUnavailableError} | set(
        DatabaseUnavailableError.__subclasses__()
    )
    await database.close()
    del database_url


async def test_a_table_that_is_locked_holds_a_caller_until_his_deadline(
    reads: CustomerReads, database_url: str
) -> None:
    fill(database_url, 1)
    await reads.row("c1")
    with psycopg.connect(database_url) as connection:
        connection.execute("LOCK customers IN ACCESS EXCLUSIVE MODE")
        with deadline_after(0.2), pytest.raises(DatabaseUnavailableError):
            await reads.row("c1")
    assert (await reads.row("c1")).revision == 1


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_the_hot_read_is_one_look_up_in_the_index(database_url: str, count: int) -> None:
    """Whatever the statistics say, before the first ANALYZE and after it; and as cheap at a million customers."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for setting in SETTINGS:
            connection.execute(setting)
        connection.execute(STATEMENT)
        assert scan(connection)["Node Type"] == "Index Scan"
        fill(database_url, count)
        assert scan(connection)["Index Name"] == "customers_pkey"
        connection.execute("VACUUM ANALYZE customers")
        found = scan(connection)
        assert (found["Node Type"], found["Index Name"]) == ("Index Scan", "customers_pkey")
        assert found["Index Cond"] == "(customer_id = ANY ($1))"
        assert (found["Actual Rows"], found.get("Rows Removed by Filter", 0)) == (2, 0)
        # A page of the index on each of its few levels, and one of the table, for each key.
        assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] <= 2 * 4


def scan(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Give the only node of the plan by which the statement is run."""
    row = connection.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE customer_rows (ARRAY['c17', 'c19999'])"
    ).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    assert "Plans" not in plan
    return plan
