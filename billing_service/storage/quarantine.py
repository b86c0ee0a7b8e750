"""Events that wait for a cause to be mended: malformed, refused by the database, or of a type that nobody used. As raw bytes.

One that was discarded waits for nothing: it counts no more and is passed over by whatever takes in more than the one event that it names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from billing_service.storage import bodies
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection


class Reason(StrEnum):
    """Why an event is here."""

    MALFORMED = "malformed"  # not an event, or of a shape that is not known
    UNWRITABLE = "unwritable"  # understood, and the database refuses it; or nobody sends it again, and it fails alone for another reason
    IGNORED = "ignored"  # recorded without effect when its type was not used; it is now


@dataclass(frozen=True)
class QuarantinedEvent:
    """An event in quarantine, without its bytes."""

    event_key: str  # the event's id, or the hash of the bytes where there is none
    reason: Reason
    detail: str
    attempts: int
    create_time: datetime
    update_time: datetime
    discard_time: datetime | None = None  # when an operator decided that it waits for nothing


_COLUMNS = "event_key, reason, detail, attempts, create_time, update_time, discard_time"
# What was decided of an event holds when the same comes again.
_KEEP = sa.text("""
    INSERT INTO quarantined_events (event_key, payload, reason, detail)
    VALUES (:event_key, :payload, :reason, :detail)
    ON CONFLICT (event_key) DO UPDATE
    SET payload = excluded.payload, reason = excluded.reason, detail = excluded.detail,
        attempts = quarantined_events.attempts + 1, update_time = now()
""")
_RELEASE = sa.text("""
    WITH gone AS (
        DELETE FROM quarantined_events AS q
        USING unnest(CAST(:keys AS text[]), CAST(:kept_as AS text[])) AS done (key, kept_as) WHERE q.event_key = done.key
        RETURNING done.kept_as, q.discard_time)
    UPDATE quarantined_events AS q SET discard_time = gone.discard_time FROM gone
    WHERE q.event_key = gone.kept_as AND q.discard_time IS NULL AND gone.discard_time IS NOT NULL
""")
_DISCARD = sa.text(f"""
    UPDATE quarantined_events SET discard_time = coalesce(discard_time, now()) WHERE event_key = :event_key
    RETURNING {_COLUMNS}
""")  # noqa: S608 - constants of this module, here and below
_DISCARDED = sa.text("""
    SELECT event_key FROM quarantined_events
    WHERE event_key = ANY(CAST(:keys AS text[])) AND discard_time IS NOT NULL
""")
_LIST = sa.text(f"""
    SELECT {_COLUMNS} FROM quarantined_events
    WHERE reason = ANY(CAST(:reasons AS text[])) AND discard_time IS NULL
    ORDER BY create_time DESC, event_key LIMIT :most
""")  # noqa: S608
_FIND = sa.text(f"SELECT {_COLUMNS}, payload FROM quarantined_events WHERE event_key = :event_key")  # noqa: S608
_PAGE = sa.text(f"""
    SELECT {_COLUMNS} FROM quarantined_events
    WHERE reason = ANY(CAST(:reasons AS text[])) AND (discard_time IS NULL OR :discarded)
      AND (CAST(:before AS timestamptz) IS NULL
           OR (create_time, event_key) < (:before, CAST(:before_key AS text) COLLATE "C"))
    ORDER BY create_time DESC, event_key DESC LIMIT :most
""")  # noqa: S608
# An id stands between quotes, however the rest is broken.
_ERASE = sa.text("""
    WITH looked AS (
        SELECT event_key, payload FROM quarantined_events WHERE event_key > :after ORDER BY event_key LIMIT :most),
    gone AS (
        DELETE FROM quarantined_events AS q USING looked
        WHERE q.event_key = looked.event_key
          AND (EXISTS (SELECT 1 FROM unnest(CAST(:needles AS bytea[])) AS needle WHERE position(needle IN looked.payload) > 0)
               OR EXISTS (SELECT 1 FROM regexp_matches(encode(looked.payload, 'escape'), '"([A-Za-z]+_[A-Za-z0-9_]+)"', 'g') AS word
                          WHERE word[1] IN (SELECT unnest(CAST(:objects AS text[])))))
        RETURNING 1)
    SELECT (SELECT max(event_key) FROM looked) AS last, (SELECT count(*) FROM gone) AS total
""")
_COUNTS = sa.text("""
    SELECT reason, count(*) AS total FROM quarantined_events WHERE discard_time IS NULL GROUP BY reason ORDER BY reason
""")
_PAYLOADS = sa.text("""
    SELECT event_key, payload FROM quarantined_events
    WHERE event_key > :after AND reason = ANY(CAST(:reasons AS text[]))
      AND CASE WHEN CAST(:key AS text) IS NULL THEN discard_time IS NULL ELSE event_key = :key END
      AND (CAST(:untried_for AS interval) IS NULL OR update_time < now() - CAST(:untried_for AS interval))
    ORDER BY event_key LIMIT :most
""")
_TAKE_IGNORED = sa.text("""
    DELETE FROM stripe_events WHERE event_id IN (
        SELECT event_id FROM stripe_events
        WHERE outcome = 'ignored' AND type = ANY(CAST(:types AS text[])) AND octet_length(payload) > 0
        LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING event_id, payload, type
""")
_PUT_IGNORED = sa.text("""
    INSERT INTO quarantined_events (event_key, payload, reason, detail)
    SELECT event_id, payload, 'ignored', type || ' is used since'
    FROM unnest(CAST(:ids AS text[]), CAST(:payloads AS bytea[]), CAST(:types AS text[])) AS moved (event_id, payload, type)
    ORDER BY event_id COLLATE "C"
    ON CONFLICT (event_key) DO NOTHING
""")


async def keep(connection: Connection, event_key: str, payload: bytes, reason: Reason, detail: str) -> None:
    """Keep an event as raw bytes; the same key again counts one more attempt. One that was discarded stays so.

    `detail` says what is wrong and carries no value of the payload.
    """
    values = {"event_key": event_key, "payload": payload, "reason": reason.value, "detail": detail}
    await connection.execute(_KEEP, values)


def release(connection: Connection, done: Mapping[str, str | None]) -> Answer[Result]:
    """Let events go that were recorded, or are kept by another key now, which is given: what was discarded is so by that one."""
    keys = sorted(done)
    return connection.send(_RELEASE, {"keys": keys, "kept_as": [done[key] for key in keys]})


async def discard(connection: Connection, event_key: str) -> QuarantinedEvent | None:
    """Note that an event waits for nothing, and give it, or None; one that was discarded before stays as it was."""
    row = (await connection.execute(_DISCARD, {"event_key": event_key})).one_or_none()
    return None if row is None else _event(row)


async def discarded(connection: Connection, keys: Collection[str]) -> frozenset[str]:
    """Say which of these keys are those of discarded events."""
    return frozenset(row.event_key for row in await connection.execute(_DISCARDED, {"keys": sorted(keys)}))


async def newest(connection: Connection, reasons: Collection[Reason], most: int) -> Sequence[QuarantinedEvent]:
    """Give what was put here last, without what was discarded."""
    return [_event(row) for row in await connection.execute(_LIST, {"reasons": sorted(reasons), "most": most})]


async def page(
    connection: Connection,
    reasons: Collection[Reason],
    before: tuple[datetime, str] | None,
    most: int,
    *,
    discarded: bool,
) -> Sequence[QuarantinedEvent]:
    """Give the next events after a place (when it was put here, and its key), the last to come first."""
    time, key = before or (None, None)
    values = {"reasons": sorted(reasons), "before": time, "before_key": key, "most": most, "discarded": discarded}
    return [_event(row) for row in await connection.execute(_PAGE, values)]


async def find(connection: Connection, event_key: str) -> tuple[QuarantinedEvent, bytes] | None:
    """Give one event with its bytes, or None."""
    row = (await connection.execute(_FIND, {"event_key": event_key})).one_or_none()
    return None if row is None else (_event(row), bytes(row.payload))


async def erase(
    connection: Connection, needles: Collection[bytes], objects: Collection[str], after: str, most: int
) -> tuple[str | None, int]:
    """Delete those of the next events after a key that have one of these texts, or the id of one of these objects, in them.

    Gives the last key that was looked at, and how many went.
    """
    values = {"needles": list(needles), "objects": list(objects), "after": after, "most": most}
    row = (await connection.execute(_ERASE, values)).one()
    return row.last, row.total


def _event(row: sa.Row[Any]) -> QuarantinedEvent:
    return QuarantinedEvent(
        row.event_key,
        Reason(row.reason),
        row.detail,
        row.attempts,
        row.create_time,
        row.update_time,
        row.discard_time,
    )


async def counts(connection: Connection) -> Mapping[Reason, int]:
    """Say how many there are of each reason, without those that were discarded."""
    return {Reason(row.reason): row.total for row in await connection.execute(_COUNTS)}


async def payloads(
    connection: Connection,
    reasons: Collection[Reason],
    *,
    key: str | None,
    after: str,
    most: int,
    untried_for: timedelta | None = None,
) -> Mapping[str, bytes]:
    """Give the bytes of the next events after a key, in the order of keys; of one alone where `key` is given, also a discarded one.

    Only those that were not tried `untried_for` so long, where that is given.
    """
    values = {"reasons": sorted(reasons), "key": key, "after": after, "most": most, "untried_for": untried_for}
    return {row.event_key: bytes(row.payload) for row in await connection.execute(_PAYLOADS, values)}


async def take_ignored(connection: Connection, types: Collection[str], most: int) -> int:
    """Move events of these types here that were recorded without effect; say how many."""
    taken = (await connection.execute(_TAKE_IGNORED, {"types": sorted(types), "most": most})).all()
    if not taken:
        return 0
    values = {
        "ids": [row.event_id for row in taken],
        "payloads": [bodies.unpacked(row.payload) for row in taken],
        "types": [row.type for row in taken],
    }
    return (await connection.execute(_PUT_IGNORED, values)).rowcount
