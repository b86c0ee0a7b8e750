"""The facts of customers as they were: one row for each change, so that a past answer can be worked out again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa

from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.storage.connection import Answer, Result
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection

_APPEND = sa.text("""
    INSERT INTO customer_facts (customer_id, change_time, revision, facts)
    SELECT customer_id, :change_time, revision, facts::jsonb
    FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:facts AS text[])) AS n (customer_id, revision, facts)
    ORDER BY customer_id COLLATE "C"
""")
# By the order of writing: the clocks of two processes may differ, the order of one customer's changes does not.
_AT = sa.text("""
    SELECT revision, facts::text AS facts FROM customer_facts
    WHERE customer_id = :customer_id AND change_time <= :time ORDER BY fact_id DESC LIMIT 1
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


async def at(connection: Connection, customer_id: str, time: datetime) -> CustomerRow:
    """Give a customer's row as it was at a time; revision 0 and no facts where nothing was known yet."""
    row = (await connection.execute(_AT, {"customer_id": customer_id, "time": time})).one_or_none()
    if row is None:
        return CustomerRow(customer_id, 0, NO_FACTS)
    return CustomerRow(customer_id, row.revision, msgspec.json.decode(row.facts, type=CustomerFacts))
