"""The erasing of customers' personal data: how far each has come, and what it took out.

A row is locked by whoever works at it, before anything else that he takes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

import sqlalchemy as sa

from billing_service.storage import bodies
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import TRANSACTION_BOUND_S, Connection

LOOKED_AT: Final = 200  # bodies in one transaction: some milliseconds
AT_A_TIME: Final = 20  # of those, before others have their turn
# An event is recorded with the time at which its transaction began, and is seen once that has ended. So nothing is looked at before it
# is as old as the oldest that the server lets go on, and some seconds for the commit.
IN_FLIGHT_S: Final = TRANSACTION_BOUND_S + 10.0
# Where nobody else has a transaction open, only one that is beginning at this moment is not seen.
QUIET_S: Final = 1.0

# By this release: the one before sets `until_time` and `done_time` and moves `looked_…`, too, but finds nobody in a compressed body.
_IS_DONE = "(done_time IS NOT NULL AND walked_until_time >= until_time)"
_COLUMNS = f"""customer_id, request_time, CASE WHEN {_IS_DONE} THEN done_time END AS done_time,
    event_bodies, quarantined_events, checkout_bodies, stripe_customer_body, reasons"""


@dataclass(frozen=True)
class Erasure:
    """How far the erasing of a customer has come; done where `done_time` is there."""

    customer_id: str
    request_time: datetime
    done_time: datetime | None
    event_bodies: int
    quarantined_events: int
    checkout_bodies: int
    stripe_customer_body: bool
    reasons: int


class Looked(Enum):
    """What there is to do after a batch."""

    MORE = "more"
    WAITING = "waiting"  # until what may be in flight has ended, or for somebody else who is at it
    TO_THE_END = "to the end"


# Asked for again, everything is looked through again: what came since is there too. Counts go on.
_BEGIN = sa.text("""
    INSERT INTO erasures AS e (customer_id, request_time, until_time, looked_time, stripe_customer_body)
    VALUES (:customer_id, :now, now(), 'epoch', :stripe_customer_body)
    ON CONFLICT (customer_id) DO UPDATE
    SET request_time = excluded.request_time, until_time = excluded.until_time, looked_time = excluded.looked_time,
        looked_event_id = '', walk_time = excluded.walk_time, walk_event_id = '', walked_until_time = excluded.walked_until_time,
        done_time = NULL, stripe_customer_body = e.stripe_customer_body OR excluded.stripe_customer_body
""")
_FIND = sa.text(f"SELECT {_COLUMNS} FROM erasures WHERE customer_id = :customer_id")  # noqa: S608 - a constant of this module
_LOCK = sa.text("SELECT 1 FROM erasures WHERE customer_id = :customer_id FOR NO KEY UPDATE")
# Who has a transaction open is asked before, and in another statement than, what is seen.
_TAKE = sa.text(f"""
    SELECT walk_time, walk_event_id, EXISTS (
        SELECT 1 FROM pg_locks AS held JOIN pg_stat_activity AS other USING (pid)
        WHERE held.locktype = 'virtualxid' AND held.pid <> pg_backend_pid() AND other.datname = current_database()) AS busy
    FROM erasures WHERE customer_id = :customer_id AND NOT {_IS_DONE}
    FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - constants of this module, here and below
# The index of the events that have a body. A body names somebody by one of the texts; events of their own objects are found by those.
_LOOK = sa.text("""
    SELECT event_id, receive_time, payload FROM stripe_events
    WHERE octet_length(payload) > 0 AND receive_time >= :time
      AND (receive_time, event_id) > (CAST(:time AS timestamptz), CAST(:event_id AS text) COLLATE "C")
      AND receive_time <= (SELECT until_time FROM erasures WHERE customer_id = :customer_id)
      AND receive_time <= now() - CAST(:unseen AS interval)
    ORDER BY receive_time, event_id LIMIT :most
""")
_EMPTY = sa.text(
    "UPDATE stripe_events SET payload = '' WHERE event_id = ANY(CAST(:ids AS text[])) AND octet_length(payload) > 0"
)
_GO_ON = sa.text("""
    UPDATE erasures
    SET walk_time = coalesce(:time, walk_time), walk_event_id = coalesce(:event_id, walk_event_id),
        event_bodies = event_bodies + :event_bodies
    WHERE customer_id = :customer_id
    RETURNING until_time <= now() - CAST(:unseen AS interval) AS is_all
""")
_UNTIL = sa.text(f"SELECT until_time FROM erasures WHERE customer_id = :customer_id AND NOT {_IS_DONE}")  # noqa: S608
_FINISH = sa.text(f"""
    UPDATE erasures SET done_time = :now, walked_until_time = until_time
    WHERE customer_id = :customer_id AND NOT {_IS_DONE} AND until_time = :until_time
""")  # noqa: S608
_COUNT = sa.text("""
    UPDATE erasures
    SET event_bodies = event_bodies + :event_bodies, quarantined_events = quarantined_events + :quarantined_events,
        checkout_bodies = checkout_bodies + :checkout_bodies, reasons = reasons + :reasons,
        stripe_customer_body = stripe_customer_body OR CAST(:stripe_customer_bodies AS integer) > 0
    WHERE customer_id = :customer_id
""")
_RUNNING = sa.text(f"SELECT customer_id FROM erasures WHERE NOT {_IS_DONE} ORDER BY customer_id LIMIT :most")  # noqa: S608
_DONE = sa.text(f"""
    SELECT customer_id FROM erasures WHERE {_IS_DONE} AND customer_id > :after ORDER BY customer_id LIMIT :most
""")  # noqa: S608
# One that is being made is left alone: what Stripe is sent for it must stay the same. One that was left for longer than it may be resumed is
# never sent again. What was asked for can be guessed from a fingerprint.
_IS_OVER = "(i.state NOT IN ('creating', 'open', 'expiring') OR (i.state = 'creating' AND i.create_time < :left))"
_EMPTY_CHECKOUTS = sa.text(f"""
    UPDATE checkout_intents SET request_body = '{{}}', url = NULL, fingerprint = ''
    WHERE intent_id IN (
        SELECT intent_id FROM checkout_intents AS i
        WHERE customer_id = :customer_id AND {_IS_OVER}
          AND (request_body <> '{{}}' OR url IS NOT NULL OR fingerprint <> '')
        ORDER BY intent_id LIMIT :most)
""")  # noqa: S608
_EMPTY_CHECKOUT_REQUESTS = sa.text(f"""
    UPDATE checkout_requests SET fingerprint = ''
    WHERE request_id IN (
        SELECT request_id FROM checkout_intents AS i JOIN checkout_requests AS r USING (intent_id)
        WHERE i.customer_id = :customer_id AND {_IS_OVER} AND r.fingerprint <> ''
        ORDER BY request_id LIMIT :most)
""")  # noqa: S608
_EMPTY_OF_OBJECTS = sa.text("""
    UPDATE stripe_events SET payload = ''
    WHERE event_id IN (
        SELECT event_id FROM stripe_events
        WHERE object_id = ANY(CAST(:objects AS text[])) AND octet_length(payload) > 0
        ORDER BY event_id LIMIT :most FOR UPDATE SKIP LOCKED)
""")


async def begin(connection: Connection, customer_id: str, now: datetime, *, stripe_customer_body: bool) -> None:
    """Ask for the erasing of a locked customer, and count what was taken out with that."""
    values = {"customer_id": customer_id, "now": now, "stripe_customer_body": stripe_customer_body}
    await connection.execute(_BEGIN, values)


def lock(connection: Connection, customer_id: str) -> Answer[Result]:
    """Keep others away from the erasing of a customer. After the customers in the order of locks, before all that is emptied."""
    return connection.send(_LOCK, {"customer_id": customer_id})


async def find(connection: Connection, customer_id: str) -> Erasure | None:
    """Say how far it has come; None where it was never asked for."""
    row = (await connection.execute(_FIND, {"customer_id": customer_id})).one_or_none()
    return None if row is None else _erasure(row)


async def look_on(connection: Connection, customer_id: str, needles: Collection[bytes]) -> Looked:
    """Look through the next recorded bodies, and empty those that name the customer by one of these texts."""
    place = (await connection.execute(_TAKE, {"customer_id": customer_id})).one_or_none()
    if place is None:
        return Looked.WAITING
    unseen = timedelta(seconds=IN_FLIGHT_S if place.busy else QUIET_S)
    begun = {"customer_id": customer_id, "unseen": unseen}
    from_here = {"time": place.walk_time, "event_id": place.walk_event_id, "most": LOOKED_AT}
    looked = (await connection.execute(_LOOK, begun | from_here)).all()
    emptied = await _empty(connection, await _naming(looked, needles))
    last = looked[-1] if looked else None
    values = {
        "time": last and last.receive_time,
        "event_id": last and last.event_id,
        "event_bodies": emptied,
    }
    is_all = (await connection.execute(_GO_ON, begun | values)).scalar_one()
    if len(looked) == LOOKED_AT:
        return Looked.MORE
    return Looked.TO_THE_END if is_all else Looked.WAITING


async def _naming(rows: Sequence[Any], needles: Collection[bytes]) -> list[str]:
    """Give the events whose body has one of the texts in it. Whoever waits for this process has his turn in between."""
    found = []
    for number, row in enumerate(rows):
        body = bodies.unpacked(row.payload)
        if any(needle in body for needle in needles):
            found.append(row.event_id)
        if number % AT_A_TIME == 0:
            await asyncio.sleep(0)
    return found


async def _empty(connection: Connection, event_ids: Sequence[str]) -> int:
    return (await connection.execute(_EMPTY, {"ids": event_ids})).rowcount if event_ids else 0


async def until_time(connection: Connection, customer_id: str) -> datetime | None:
    """Say until when bodies are looked through; None where it is done."""
    found: datetime | None = await connection.scalar(_UNTIL, {"customer_id": customer_id})
    return found


async def finish(connection: Connection, customer_id: str, until_time: datetime, now: datetime) -> None:
    """Note that it is done; not where it was asked for again since it was to look until this time."""
    await connection.execute(_FINISH, {"customer_id": customer_id, "until_time": until_time, "now": now})


async def empty_checkouts(connection: Connection, customer_id: str, left: datetime) -> int:
    """Empty the bodies of checkouts that are over, or were begun before `left` and left; say of how many, a batch at most."""
    values = {"customer_id": customer_id, "left": left, "most": LOOKED_AT}
    return (await connection.execute(_EMPTY_CHECKOUTS, values)).rowcount


async def empty_checkout_requests(connection: Connection, customer_id: str, left: datetime) -> int:
    """Empty the fingerprints of what was asked for with those; say of how many, a batch at most."""
    values = {"customer_id": customer_id, "left": left, "most": LOOKED_AT}
    return (await connection.execute(_EMPTY_CHECKOUT_REQUESTS, values)).rowcount


async def empty_events_of(connection: Connection, objects: Collection[str]) -> int:
    """Empty the bodies of events of these objects; say of how many, a batch at most."""
    return (await connection.execute(_EMPTY_OF_OBJECTS, {"objects": sorted(objects), "most": LOOKED_AT})).rowcount


async def count(
    connection: Connection,
    customer_id: str,
    *,
    event_bodies: int = 0,
    quarantined_events: int = 0,
    checkout_bodies: int = 0,
    reasons: int = 0,
    stripe_customer_bodies: int = 0,
) -> None:
    """Add to what was taken out."""
    values = {
        "event_bodies": event_bodies,
        "quarantined_events": quarantined_events,
        "checkout_bodies": checkout_bodies,
        "reasons": reasons,
        "stripe_customer_bodies": stripe_customer_bodies,
    }
    await connection.execute(_COUNT, values | {"customer_id": customer_id})


async def running(connection: Connection, most: int) -> Sequence[str]:
    """Give customers whose erasing is not done."""
    return [row.customer_id for row in await connection.execute(_RUNNING, {"most": most})]


async def done(connection: Connection, after: str, most: int) -> Sequence[str]:
    """Give the next customers after an id whose erasing is done."""
    return [row.customer_id for row in await connection.execute(_DONE, {"after": after, "most": most})]


def _erasure(row: sa.Row[Any]) -> Erasure:
    return Erasure(
        customer_id=row.customer_id,
        request_time=row.request_time,
        done_time=row.done_time,
        event_bodies=row.event_bodies,
        quarantined_events=row.quarantined_events,
        checkout_bodies=row.checkout_bodies,
        stripe_customer_body=row.stripe_customer_body,
        reasons=row.reasons,
    )
