"""What is taken out of the database with time: the bodies of events first, and much later that they came at all.

A body holds personal data and is needed only while somebody may want to look at it or take it in again. The id is what keeps an event
from counting twice: it stays for longer than Stripe can bring it again (three days of retries, 30 days of listing).
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from billing_service.storage.database import Connection
from billing_service.storage.history_horizon import Trimmed

BATCH = 500  # rows of one transaction: a few milliseconds, in which no other row is held up

# Rows that somebody else has locked are left to the next look, so that any number of processes may do this at once.
_EMPTY = sa.text("""
    UPDATE stripe_events SET payload = ''
    WHERE event_id IN (
        SELECT event_id FROM stripe_events
        WHERE receive_time < now() - CAST(:age AS interval) AND octet_length(payload) > 0
        ORDER BY receive_time LIMIT :most FOR UPDATE SKIP LOCKED)
""")
_DELETE = sa.text("""
    DELETE FROM stripe_events
    WHERE event_id IN (
        SELECT event_id FROM stripe_events
        WHERE receive_time < now() - CAST(:age AS interval) AND octet_length(payload) = 0
        ORDER BY receive_time LIMIT :most FOR UPDATE SKIP LOCKED)
""")
# It holds a body too. No index: whoever counts the quarantine reads all of it, several times a minute.
_DELETE_DISCARDED = sa.text("""
    DELETE FROM quarantined_events
    WHERE event_key IN (
        SELECT event_key FROM quarantined_events
        WHERE discard_time < now() - CAST(:age AS interval)
        ORDER BY discard_time LIMIT :most FOR UPDATE SKIP LOCKED)
""")
# Of objects that Stripe denies, or that are another deployment's.
_DELETE_TOLD = sa.text("""
    DELETE FROM told_facts
    WHERE (object_id, event_id) IN (
        SELECT object_id, event_id FROM told_facts
        WHERE create_time < now() - CAST(:age AS interval)
        ORDER BY create_time LIMIT :most FOR UPDATE SKIP LOCKED)
""")


async def empty_payloads(connection: Connection, age: timedelta) -> Trimmed:
    """Take the bodies out of events that came longer ago; a batch at most."""
    return await _batch(connection, _EMPTY, age)


async def delete_events(connection: Connection, age: timedelta) -> Trimmed:
    """Forget events without a body that came longer ago; a batch at most."""
    return await _batch(connection, _DELETE, age)


async def delete_told_facts(connection: Connection, age: timedelta) -> Trimmed:
    """Forget what was told longer ago of objects that were never seen; a batch at most."""
    return await _batch(connection, _DELETE_TOLD, age)


async def delete_discarded(connection: Connection, age: timedelta) -> Trimmed:
    """Forget events in quarantine that were discarded longer ago; a batch at most."""
    return await _batch(connection, _DELETE_DISCARDED, age)


async def _batch(connection: Connection, statement: sa.TextClause, age: timedelta) -> Trimmed:
    rows = (await connection.execute(statement, {"age": age, "most": BATCH})).rowcount
    return Trimmed(rows, rows >= BATCH)
