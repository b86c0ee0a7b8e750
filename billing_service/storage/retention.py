"""What is taken out of the database with time: the bodies of events first, and much later that they came at all.

A body holds personal data and is needed only while somebody may want to look at it or take it in again. The id is what keeps an event
from counting twice: it stays for longer than Stripe can bring it again (three days of retries, 30 days of listing).
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from billing_service.storage.database import Connection

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


async def empty_payloads(connection: Connection, age: timedelta) -> int:
    """Take the bodies out of events that came longer ago; say of how many, a batch at most."""
    return (await connection.execute(_EMPTY, {"age": age, "most": BATCH})).rowcount


async def delete_events(connection: Connection, age: timedelta) -> int:
    """Forget events without a body that came longer ago; say how many, a batch at most."""
    return (await connection.execute(_DELETE, {"age": age, "most": BATCH})).rowcount
