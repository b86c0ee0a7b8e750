"""The events that Stripe sent: recorded once, by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from billing_service.domain.frozen import frozen
from billing_service.storage import bodies
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection


class RecordedOutcome(StrEnum):
    """What is written beside a recorded event."""

    APPLIED = "applied"
    IGNORED = "ignored"
    NOT_OURS = "not_ours"


@frozen
class EventRow:
    """An event as it is recorded; the payload byte for byte as it came."""

    event_id: str
    type: str
    created: int
    api_version: str | None
    object_id: str | None
    livemode: bool
    outcome: RecordedOutcome
    payload: bytes


# What is recorded is in quarantine no longer; what comes there while this waits for another transaction goes with its next replay.
_RECORD = sa.text("""
    WITH recorded AS (
        INSERT INTO stripe_events (event_id, type, created, api_version, object_id, livemode, outcome, payload)
        SELECT event_id, type, created, api_version, object_id, livemode, outcome, payload
        FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:createds AS bigint[]), CAST(:versions AS text[]),
                    CAST(:objects AS text[]), CAST(:livemodes AS boolean[]), CAST(:outcomes AS text[]),
                    CAST(:payloads AS bytea[]))
             AS row (event_id, type, created, api_version, object_id, livemode, outcome, payload)
        ORDER BY event_id COLLATE "C"
        ON CONFLICT (event_id) DO NOTHING
        RETURNING event_id, receipt),
    released AS (DELETE FROM quarantined_events WHERE event_key IN (SELECT event_id FROM recorded))
    SELECT event_id, receipt FROM recorded
""")


LOOKED_AT: Final = 5_000  # recorded events in one call that lists them; without a body that is a few milliseconds


@dataclass(frozen=True)
class RecordedEvent:
    """An event as it stands here, without its body."""

    event_id: str
    type: str
    created: int
    api_version: str | None
    object_id: str | None
    livemode: bool
    outcome: RecordedOutcome
    receive_time: datetime
    body_bytes: int  # 0: it was taken out


@dataclass(frozen=True)
class Filter:
    """Which events are listed. `object_ids`: only those about one of these; None: about anything."""

    object_ids: frozenset[str] | None = None
    type: str | None = None
    outcome: RecordedOutcome | None = None
    start: datetime | None = None
    end: datetime | None = None


Place = tuple[datetime, str]  # when an event was received, and its id

_LISTED = """event_id, type, created, api_version, object_id, livemode, outcome, receive_time,
    octet_length(payload) AS kept_bytes"""
_HEAD = f"substring(payload FOR {bodies.HEAD_BYTES}) AS head"  # of those alone that are shown: it is fetched with what is kept
_SHOWN = f"{_LISTED}, {_HEAD}"
_MATCHES = (
    """(CAST(:type AS text) IS NULL OR type = :type) AND (CAST(:outcome AS text) IS NULL OR outcome = :outcome)"""
)
_WITHIN = """(CAST(:start AS timestamptz) IS NULL OR receive_time >= :start) AND receive_time <= CAST(:end AS timestamptz)
    AND (receive_time, event_id) < (CAST(:end AS timestamptz), CAST(:end_id AS text) COLLATE "C")"""
_OF_OBJECTS = sa.text(f"""
    SELECT {_SHOWN} FROM stripe_events
    WHERE object_id = ANY(CAST(:objects AS text[])) AND {_MATCHES} AND {_WITHIN}
    ORDER BY receive_time DESC, event_id DESC LIMIT :most
""")  # noqa: S608 - constants of this module, here and below
# Every event stands in one of the two indexes by receive_time: of those with a body, and of those without.
_LOOK = sa.text(f"""
    WITH looked AS (
        SELECT * FROM (
            (SELECT {_LISTED} FROM stripe_events WHERE octet_length(payload) > 0 AND {_WITHIN}
             ORDER BY receive_time DESC, event_id DESC LIMIT :looked)
          UNION ALL
            (SELECT {_LISTED} FROM stripe_events WHERE octet_length(payload) = 0 AND {_WITHIN}
             ORDER BY receive_time DESC, event_id DESC LIMIT :looked)) AS both_indexes
        ORDER BY receive_time DESC, event_id DESC LIMIT :looked),
    last AS (SELECT receive_time, event_id FROM looked ORDER BY receive_time, event_id LIMIT 1),
    found AS (SELECT * FROM looked WHERE {_MATCHES} ORDER BY receive_time DESC, event_id DESC LIMIT :most)
    SELECT found.*, (SELECT {_HEAD} FROM stripe_events AS e WHERE e.event_id = found.event_id) AS head,
           (SELECT count(*) FROM looked) AS total, last.receive_time AS last_time, last.event_id AS last_id
    FROM last LEFT JOIN found ON true ORDER BY found.receive_time DESC, found.event_id DESC
""")  # noqa: S608
_FIND = sa.text(f"SELECT {_SHOWN}, payload FROM stripe_events WHERE event_id = :event_id")  # noqa: S608
# A customer's objects, what hangs on them, and their Stripe customers.
_KNOWN = """
    WITH RECURSIVE own (stripe_customer_id) AS (
        SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = :customer_id),
    related (object_id) AS (
        SELECT object_id FROM stripe_objects WHERE stripe_customer_id IN (SELECT stripe_customer_id FROM own)
      UNION
        SELECT other.object_id
        FROM related JOIN stripe_links AS link USING (object_id) JOIN stripe_links AS other USING (anchor_id)
    ),
    known (object_id) AS (SELECT object_id FROM related UNION SELECT stripe_customer_id FROM own)
"""
_OBJECTS = sa.text(f"{_KNOWN} SELECT object_id FROM known LIMIT :most")  # noqa: S608
# With what ties them together: a payment intent, say, of which nothing is kept but the events.
_OBJECTS_AFTER = sa.text(f"""
    {_KNOWN}
    SELECT object_id FROM (
        SELECT object_id FROM known UNION SELECT anchor_id FROM related JOIN stripe_links USING (object_id)) AS named
    WHERE object_id > :after ORDER BY object_id LIMIT :most
""")  # noqa: S608


async def objects_of(connection: Connection, customer_id: str, most: int) -> frozenset[str]:
    """Give the ids of a customer's objects, of what hangs on them, and of their Stripe customers."""
    result = await connection.execute(_OBJECTS, {"customer_id": customer_id, "most": most})
    return frozenset(row.object_id for row in result)


async def objects_after(connection: Connection, customer_id: str, after: str, most: int) -> Sequence[str]:
    """Give the next of the ids that `objects_of` gives, and of what ties these together, after one of them, in their order."""
    values = {"customer_id": customer_id, "after": after, "most": most}
    return [row.object_id for row in await connection.execute(_OBJECTS_AFTER, values)]


async def page(
    connection: Connection, chosen: Filter, before: Place, most: int
) -> tuple[Sequence[RecordedEvent], Place | None]:
    """Give the next events before a place, the last received first, and the place to go on from; None where there are no more.

    It looks at a bounded number of events, so that a page may be short, or empty, and another one follow.
    """
    values: dict[str, Any] = {
        "type": chosen.type,
        "outcome": None if chosen.outcome is None else chosen.outcome.value,
        "start": chosen.start,
        "end": before[0],
        "end_id": before[1],
    }
    if chosen.object_ids is not None:
        values |= {"objects": sorted(chosen.object_ids), "most": most + 1}
        found = [_recorded(row) for row in await connection.execute(_OF_OBJECTS, values)]
        return found[:most], _place(found[most - 1]) if len(found) > most else None
    rows = (await connection.execute(_LOOK, values | {"most": most + 1, "looked": LOOKED_AT})).all()
    found = [_recorded(row) for row in rows if row.event_id is not None]
    if len(found) > most:
        return found[:most], _place(found[most - 1])
    is_all = not rows or rows[0].total < LOOKED_AT
    return found, None if is_all else (rows[0].last_time, rows[0].last_id)


async def find(connection: Connection, event_id: str) -> tuple[RecordedEvent, bytes] | None:
    """Give one event with its body, or None."""
    row = (await connection.execute(_FIND, {"event_id": event_id})).one_or_none()
    return None if row is None else (_recorded(row), bodies.unpacked(row.payload))


def _place(event: RecordedEvent) -> Place:
    return event.receive_time, event.event_id


def _recorded(row: sa.Row[Any]) -> RecordedEvent:
    return RecordedEvent(
        event_id=row.event_id,
        type=row.type,
        created=row.created,
        api_version=row.api_version,
        object_id=row.object_id,
        livemode=row.livemode,
        outcome=RecordedOutcome(row.outcome),
        receive_time=row.receive_time,
        body_bytes=bodies.size_of(row.head, row.kept_bytes),
    )


def record(connection: Connection, rows: Sequence[EventRow]) -> Answer[Mapping[str, int]]:
    """Record events (ids distinct), let them out of quarantine, and return the receipt number of each that is new.

    Waits for another transaction that is recording one of the same ids. In the order of ids: the first of the locks.
    """
    return connection.ask(
        _RECORD,
        {
            "ids": [row.event_id for row in rows],
            "types": [row.type for row in rows],
            "createds": [row.created for row in rows],
            "versions": [row.api_version for row in rows],
            "objects": [row.object_id for row in rows],
            "livemodes": [row.livemode for row in rows],
            "outcomes": [row.outcome.value for row in rows],
            "payloads": [bodies.packed(row.payload) for row in rows],
        },
        _receipts,
    )


def _receipts(result: Result) -> Mapping[str, int]:
    return {row.event_id: row.receipt for row in result}
