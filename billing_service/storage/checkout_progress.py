"""What bears on checkout sessions that somebody waits for: a stamp that changes whenever any of it does, for many at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from billing_service.storage.database import Connection

# xmin is the transaction that wrote a row; unlike a time, no two writers share it. Three look-ups by key for each session.
_STAMPS = sa.text("""
    SELECT i.checkout_session_id, concat_ws('/', i.xmin, c.xmin, o.xmin) AS stamp
    FROM checkout_intents AS i
    JOIN customers AS c ON c.customer_id = i.customer_id
    LEFT JOIN stripe_objects AS o ON o.object_id = i.checkout_session_id
    WHERE i.checkout_session_id = ANY(CAST(:ids AS text[]))
""")


async def stamps(connection: Connection, session_ids: Collection[str]) -> Mapping[str, str]:
    """Give the stamp of each session that an intent of ours made: of the intent, its customer's facts, and the session."""
    result = await connection.execute(_STAMPS, {"ids": sorted(session_ids)})
    return {row.checkout_session_id: row.stamp for row in result}
