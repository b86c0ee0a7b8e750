"""How far back the history goes: what was superseded long ago is taken out of it, in the order in which it was written.

A row goes when the one that took its place is itself past the age, so that what held at any time within the age is still there,
and the newest row of every customer always. The horizon moves in the transaction that takes rows out. Whoever reads rows and then
finds the horizon before his place has read all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from billing_service.storage.database import Connection

BATCH: Final = 500  # rows that one transaction looks at: a few milliseconds


@dataclass(frozen=True)
class Trimmed:
    """What one transaction did: how many rows it took out, and whether there may be more."""

    rows: int
    more: bool


# Whoever else is at it has this round.
_LOCK = sa.text("SELECT changes_position, facts_time FROM history_horizon FOR UPDATE SKIP LOCKED")
_TRIM_CHANGES = sa.text("""
    WITH next AS (
        SELECT position, customer_id, revision, change_time FROM entitlement_changes
        WHERE position > :position ORDER BY position LIMIT :most),
    due AS (
        SELECT * FROM next
        WHERE position < ALL (SELECT position FROM next AS young WHERE young.change_time > :before)),
    newest AS (
        SELECT customer_id, max(revision) AS revision FROM due GROUP BY customer_id),
    gone AS (
        DELETE FROM entitlement_changes AS c USING newest
        WHERE c.customer_id = newest.customer_id AND c.revision < newest.revision
        RETURNING 1),
    moved AS (
        UPDATE history_horizon SET changes_position = (SELECT max(position) FROM due)
        WHERE EXISTS (SELECT FROM due))
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS rows
""")
# With ties: what one transaction wrote has one time, and the horizon is a time.
_TRIM_FACTS = sa.text("""
    WITH due AS (
        SELECT customer_id, fact_id, change_time FROM customer_facts
        WHERE change_time > coalesce(CAST(:time AS timestamptz), '-infinity') AND change_time <= :before
        ORDER BY change_time FETCH FIRST :most ROWS WITH TIES),
    newest AS (
        SELECT customer_id, max(fact_id) AS fact_id FROM due GROUP BY customer_id),
    gone AS (
        DELETE FROM customer_facts AS f USING newest
        WHERE f.customer_id = newest.customer_id AND f.fact_id < newest.fact_id
        RETURNING 1),
    moved AS (
        UPDATE history_horizon SET facts_time = (SELECT max(change_time) FROM due)
        WHERE EXISTS (SELECT FROM due))
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS rows
""")
_FACTS_SINCE = sa.text("SELECT facts_time FROM history_horizon")


async def trim_changes(connection: Connection, before: datetime) -> Trimmed:
    """Take changes out of the log that others took the place of before a time; a batch at most."""
    horizon = (await connection.execute(_LOCK)).one_or_none()
    if horizon is None:
        return Trimmed(0, more=False)
    values = {"position": horizon.changes_position, "before": before, "most": BATCH}
    done = (await connection.execute(_TRIM_CHANGES, values)).one()
    return Trimmed(done.rows, done.looked_at >= BATCH)


async def trim_facts(connection: Connection, before: datetime) -> Trimmed:
    """Forget facts that others took the place of before a time; a batch at most, and what was written together with its last."""
    horizon = (await connection.execute(_LOCK)).one_or_none()
    if horizon is None:
        return Trimmed(0, more=False)
    values = {"time": horizon.facts_time, "before": before, "most": BATCH}
    done = (await connection.execute(_TRIM_FACTS, values)).one()
    return Trimmed(done.rows, done.looked_at >= BATCH)


async def facts_since(connection: Connection) -> datetime | None:
    """Say since when the facts of every customer are whole; None where nothing was ever taken out. Ask after reading them."""
    found: datetime | None = await connection.scalar(_FACTS_SINCE)
    return found
