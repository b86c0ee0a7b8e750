"""Facts that only the types of thin events told, until they are joined into the row of their object.

The object of a thin event may be one that nobody has seen yet; a row in `stripe_objects` is of what was seen. So what was told waits
here, is given with the object wherever that is loaded, and goes once it is in the row.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import sqlalchemy as sa

from billing_service.domain.merge import ObjectState
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection

_KEEP = sa.text("""
    INSERT INTO told_facts (object_id, event_id, kind, facts)
    SELECT object_id, event_id, kind, facts::jsonb
    FROM unnest(CAST(:objects AS text[]), CAST(:events AS text[]), CAST(:kinds AS text[]), CAST(:facts AS text[]))
         AS n (object_id, event_id, kind, facts)
    ORDER BY object_id COLLATE "C", event_id COLLATE "C"
    ON CONFLICT DO NOTHING
""")
_WAIT = sa.text("SELECT EXISTS (SELECT 1 FROM told_facts WHERE object_id = :object_id)")
_JOINED = sa.text("DELETE FROM told_facts WHERE object_id = ANY(CAST(:ids AS text[]))")


def keep(connection: Connection, told: Mapping[str, ObjectState]) -> Answer[Result]:
    """Keep what events (by their ids) told of locked objects."""
    states = told.values()
    values = {
        "objects": [state.object_id for state in states],
        "events": [*told],
        "kinds": [state.kind.value for state in states],
        "facts": [msgspec.json.encode(state.facts).decode() for state in states],
    }
    return connection.send(_KEEP, values)


async def wait(connection: Connection, object_id: str) -> bool:
    """Say whether anything was told of an object that is not in its row."""
    return bool(await connection.scalar(_WAIT, {"object_id": object_id}))


def joined(connection: Connection, object_ids: Collection[str]) -> Answer[Result]:
    """Take out what is in the rows of these locked objects from now on."""
    return connection.send(_JOINED, {"ids": sorted(object_ids)})
