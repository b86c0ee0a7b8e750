"""The events that Stripe sent: recorded once, by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from billing_service.storage.database import Connection


class RecordedOutcome(StrEnum):
    """What is written beside a recorded event."""

    APPLIED = "applied"
    IGNORED = "ignored"
    NOT_OURS = "not_ours"


@dataclass(frozen=True)
class EventRow:
    """An event as it is recorded; the payload byte for byte."""

    event_id: str
    type: str
    created: int
    api_version: str | None
    object_id: str | None
    livemode: bool
    outcome: RecordedOutcome
    payload: bytes


_RECORD = sa.text("""
    INSERT INTO stripe_events (event_id, type, created, api_version, object_id, livemode, outcome, payload)
    SELECT event_id, type, created, api_version, object_id, livemode, outcome, payload
    FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:createds AS bigint[]), CAST(:versions AS text[]),
                CAST(:objects AS text[]), CAST(:livemodes AS boolean[]), CAST(:outcomes AS text[]),
                CAST(:payloads AS bytea[]))
         AS row (event_id, type, created, api_version, object_id, livemode, outcome, payload)
    ORDER BY event_id COLLATE "C"
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id, receipt
""")


async def record(connection: Connection, rows: Sequence[EventRow]) -> Mapping[str, int]:
    """Record events (ids distinct) and return the receipt number of each that was not recorded before.

    Waits for another transaction that is recording one of the same ids. In the order of ids: the first of the locks.
    """
    result = await connection.execute(
        _RECORD,
        {
            "ids": [row.event_id for row in rows],
            "types": [row.type for row in rows],
            "createds": [row.created for row in rows],
            "versions": [row.api_version for row in rows],
            "objects": [row.object_id for row in rows],
            "livemodes": [row.livemode for row in rows],
            "outcomes": [row.outcome.value for row in rows],
            "payloads": [row.payload for row in rows],
        },
    )
    return {row.event_id: row.receipt for row in result}
