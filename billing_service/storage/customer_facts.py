"""The facts of customers as they were: one row for each change, so that a past answer can be worked out again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.storage.connection import Answer, Result
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection
from billing_service.storage.history import LoggedChange

_APPEND = sa.text("""
    INSERT INTO customer_facts (customer_id, change_time, revision, facts)
    SELECT customer_id, :change_time, revision, facts::jsonb
    FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:facts AS text[])) AS n (customer_id, revision, facts)
    ORDER BY customer_id COLLATE "C"
""")
# Both tables in one statement, which takes what they have in common once.
_SAVE = sa.text("""
    WITH given AS MATERIALIZED (
        SELECT customer_id, revision, facts::jsonb AS facts, next_change_time
        FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:facts AS text[]),
                    CAST(:next_changes AS timestamptz[]))
             AS n (customer_id, revision, facts, next_change_time)),
    saved AS (
        UPDATE customers AS c
        SET facts = given.facts, revision = given.revision, next_change_time = given.next_change_time, update_time = now()
        FROM given WHERE c.customer_id = given.customer_id)
    INSERT INTO customer_facts (customer_id, change_time, revision, facts)
    SELECT customer_id, :change_time, revision, facts FROM given ORDER BY customer_id COLLATE "C"
""")
# By the order of writing: the clocks of two processes may differ, the order of one customer's changes does not.
_AT = sa.text("""
    SELECT revision, facts::text AS facts FROM customer_facts
    WHERE customer_id = :customer_id AND change_time <= :time ORDER BY fact_id DESC LIMIT 1
""")


# Of processes with skewed clocks a later one may be meant, which is told after it too; never one of a later revision.
_AFTER = sa.text("""
    SELECT c.position, f.facts::text AS facts
    FROM unnest(CAST(:positions AS bigint[]), CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:times AS timestamptz[]))
         AS c (position, customer_id, revision, change_time)
    CROSS JOIN LATERAL (
        SELECT facts FROM customer_facts AS k
        WHERE k.customer_id = c.customer_id AND k.change_time <= c.change_time AND k.revision <= c.revision
        ORDER BY fact_id DESC LIMIT 1) AS f
""")


def append(connection: Connection, rows: Sequence[CustomerRow], change_time: datetime) -> Answer[Result]:
    """Keep what locked customers have from now on; `change_time` by the one clock of the process."""
    ordered = sorted(rows, key=lambda row: row.customer_id)
    values = {
        "change_time": change_time,
        "ids": [row.customer_id for row in ordered],
        "revisions": [row.revision for row in ordered],
        "facts": [msgspec.json.encode(row.facts).decode() for row in ordered],
    }
    return connection.send(_APPEND, values)


def save(
    connection: Connection,
    rows: Sequence[CustomerRow],
    next_changes: Mapping[str, datetime | None],
    change_time: datetime,
) -> Answer[Result]:
    """Write locked customers as `customers.save` does, and keep what they have from now on as `append` does."""
    values = {
        "change_time": change_time,
        "ids": [row.customer_id for row in rows],
        "revisions": [row.revision for row in rows],
        "facts": [msgspec.json.encode(row.facts).decode() for row in rows],
        "next_changes": [next_changes[row.customer_id] for row in rows],
    }
    return connection.send(_SAVE, values)


async def at(connection: Connection, customer_id: str, time: datetime) -> CustomerRow:
    """Give a customer's row as it was at a time; revision 0 and no facts where nothing was known yet."""
    row = (await connection.execute(_AT, {"customer_id": customer_id, "time": time})).one_or_none()
    if row is None:
        return CustomerRow(customer_id, 0, NO_FACTS)
    return CustomerRow(customer_id, row.revision, msgspec.json.decode(row.facts, type=CustomerFacts))


async def after(connection: Connection, changes: Collection[LoggedChange]) -> Mapping[int, CustomerFacts]:
    """Give what the customers of changes had after each, by its position; without those of which it is not kept any more."""
    values = {
        "positions": [change.position for change in changes],
        "ids": [change.customer_id for change in changes],
        "revisions": [change.revision for change in changes],
        "times": [change.change_time for change in changes],
    }
    result = await connection.execute(_AFTER, values)
    return {row.position: msgspec.json.decode(row.facts, type=CustomerFacts) for row in result}
