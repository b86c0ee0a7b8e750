"""The log of changes: its positions become visible in their order, whoever writes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import psycopg

from billing_service.domain.access import Source, SourceState, SourceType
from billing_service.domain.entitlement import Entitlement, Entitlements
from billing_service.domain.facts import NO_FACTS
from billing_service.domain.frozen import replace
from billing_service.storage import catalogs, history
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database
from billing_service.storage.history import Cause, CauseKind, Change
from billing_service.storage.lock_keys import LockKey

NOW = datetime(2026, 11, 29, tzinfo=UTC)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%entitlement_changes%'"


def change(customer_id: str) -> Change:
    nothing = Entitlements(customer_id, 1, (), (), (), NOW, None, "v")
    return Change(CustomerRow(customer_id, 1, NO_FACTS), True, Cause(CauseKind.EVENT, "evt_1"), nothing, nothing)


async def test_a_position_is_drawn_only_when_the_lock_of_the_log_is_had(database_url: str) -> None:
    """Drawn before, it could be lower than one that somebody else commits meanwhile, and readers would pass over it."""
    database = Database(database_url)

    async def append(connection: Connection) -> None:
        await history.append(connection, [change("ann"), change("bob")], "v", NOW)

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("INSERT INTO customers (customer_id) VALUES ('ann'), ('bob')")
        other.execute("SELECT pg_advisory_lock(%s)", [LockKey.LOG])
        appending = asyncio.create_task(database.run(append))
        async with asyncio.timeout(30):
            while other.execute(WAITING).fetchone() == (0,):  # noqa: ASYNC110 - PostgreSQL tells nobody
                await asyncio.sleep(0)
        row = other.execute("SELECT nextval('entitlement_position')").fetchone()
        other.execute("SELECT pg_advisory_unlock(%s)", [LockKey.LOG])
        await appending
        found = other.execute("SELECT position FROM entitlement_changes ORDER BY position").fetchall()
    await database.close()
    assert row is not None
    assert [position for (position,) in found] == [row[0] + 1, row[0] + 2]


def having(*sources: Source, revision: int) -> Entitlements:
    """Give what somebody has who has these sources, of which the last gives the feature."""
    given = Entitlement("export", True, sources[-1], None)
    return Entitlements("ann", revision, (given,), sources, ("pro",), NOW, None, "v")


async def test_what_a_change_left_as_it_was_is_kept_once_and_told_twice(database_url: str) -> None:
    """Of somebody with many sources nearly all stay, whatever happens to one."""
    database = Database(database_url)
    renewed, *others = (
        Source(SourceType.PURCHASE, SourceState.ACTIVE, "pro", 1, f"cs_{n}", None, NOW, None) for n in range(9)
    )
    ended = replace(renewed, state=SourceState.ENDED)
    before, after = having(renewed, *others, revision=1), having(*others, ended, revision=2)

    async def append(connection: Connection) -> None:
        row = CustomerRow("ann", 2, NO_FACTS)
        await history.append(connection, [replace(change("ann"), row=row, before=before, after=after)], "v", NOW)

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("INSERT INTO customers (customer_id) VALUES ('ann')")
        await database.run(append)
        kept = other.execute(
            "SELECT jsonb_path_query_array(before, '$.sources[*].stripe_id') FROM entitlement_changes"
        ).fetchone()
    found = await database.run(lambda connection: history.of_customer(connection, "ann", None, 9))
    await database.close()
    assert kept == (["cs_0"],)
    assert [(one.before, one.after) for one in found] == [(before, after)]


async def test_of_a_feature_what_is_absent_is_not_kept(database_url: str) -> None:
    """Most of a change is its features, twice; what is not there comes back as it was."""
    database = Database(database_url)
    off = Entitlements("ann", 1, (Entitlement("export", False, None, None),), (), (), NOW, None, "v")

    async def append(connection: Connection) -> None:
        await history.append(connection, [replace(change("ann"), before=off, after=off)], "v", NOW)

    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("INSERT INTO customers (customer_id) VALUES ('ann')")
        await database.run(append)
        kept = other.execute("SELECT after -> 'lines' FROM entitlement_changes").fetchone()
    found = await database.run(lambda connection: history.since(connection, history.BEGINNING, 1))
    await database.close()
    assert kept == ([{"feature_key": "export", "value": False}],)
    assert found is not None
    assert found[0].entitlements.entitlements == off.entitlements


async def test_a_catalog_that_is_being_admitted_holds_up_no_writer_of_the_log(database_url: str) -> None:
    """Admission may read every customer for a minute; events that were verified are committed meanwhile."""
    database = Database(database_url)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("INSERT INTO customers (customer_id) VALUES ('ann')")

    async def append(connection: Connection) -> None:
        await history.append(connection, [change("ann")], "v", NOW)

    async def admit(connection: Connection) -> None:
        await catalogs.lock(connection)
        async with asyncio.timeout(30):
            await database.run(append)

    await database.run(admit, limit_s=60)
    await database.close()
