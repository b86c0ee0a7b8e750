"""Which plan sells at a Stripe price: remembered for ever, at every resolution.

A price rise moves the lookup key to a new price; everybody on the old one keeps the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from billing_service.storage.database import Connection


@dataclass(frozen=True)
class PriceRow:
    """One price that resolved to a plan; `current` while it is what the plan is sold at."""

    price_id: str
    plan_key: str
    price_key: str
    lookup_key: str
    active: bool
    current: bool


_ALL = sa.text("SELECT price_id, plan_key, price_key, lookup_key, active, current FROM prices")
_RETIRE = sa.text("""
    UPDATE prices SET current = false
    WHERE current AND (plan_key, price_key) IN (
        SELECT * FROM unnest(CAST(:plans AS text[]), CAST(:keys AS text[])))
""")
_REMEMBER = sa.text("""
    INSERT INTO prices (price_id, plan_key, price_key, lookup_key, active, current)
    SELECT id, plan_key, price_key, lookup_key, active, true
    FROM unnest(CAST(:ids AS text[]), CAST(:plans AS text[]), CAST(:keys AS text[]), CAST(:lookups AS text[]),
                CAST(:actives AS boolean[])) AS n (id, plan_key, price_key, lookup_key, active)
    ORDER BY id COLLATE "C"
    ON CONFLICT (price_id) DO UPDATE
    SET plan_key = excluded.plan_key, price_key = excluded.price_key, lookup_key = excluded.lookup_key,
        active = excluded.active, current = true, resolve_time = now()
""")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(7241902772)")  # two processes resolve at once: one after the other


async def load_all(connection: Connection) -> list[PriceRow]:
    """Give every price that ever resolved: as many as a company ever had, hundreds at most."""
    return [PriceRow(**row._mapping) for row in await connection.execute(_ALL)]  # noqa: SLF001 - SQLAlchemy's public name


async def remember(connection: Connection, checked: Sequence[tuple[str, str]], rows: Sequence[PriceRow]) -> None:
    """Keep what the checked (plan key, price key) pairs resolve to now; what was current for them before is kept as past."""
    ids = [row.price_id for row in rows]
    retired = {"plans": [pair[0] for pair in checked], "keys": [pair[1] for pair in checked]}
    await connection.execute(_LOCK)
    await connection.execute(_RETIRE, retired)
    await connection.execute(
        _REMEMBER,
        {
            "ids": ids,
            "plans": [row.plan_key for row in rows],
            "keys": [row.price_key for row in rows],
            "lookups": [row.lookup_key for row in rows],
            "actives": [row.active for row in rows],
        },
    )
