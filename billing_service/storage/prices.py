"""Which plan sells at a Stripe price: remembered for ever, at every resolution.

A price rise moves the lookup key to a new price; everybody on the old one keeps the plan.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection
from billing_service.storage.lock_keys import LockKey


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
_FIND = sa.text("SELECT price_id, plan_key FROM prices WHERE price_id = ANY(CAST(:ids AS text[]))")
_LEARN = sa.text("""
    INSERT INTO prices (price_id, plan_key, price_key, lookup_key, active, current)
    SELECT id, plan_key, price_key, lookup_key, true, false
    FROM unnest(CAST(:ids AS text[]), CAST(:plans AS text[]), CAST(:keys AS text[]), CAST(:lookups AS text[]))
         AS n (id, plan_key, price_key, lookup_key)
    ORDER BY id COLLATE "C"
    ON CONFLICT (price_id) DO NOTHING
""")
_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")


async def load_all(connection: Connection) -> list[PriceRow]:
    """Give every price that ever resolved: as many as a company ever had, hundreds at most."""
    return [PriceRow(**row._asdict()) for row in await connection.execute(_ALL)]


async def find(connection: Connection, price_ids: Collection[str]) -> dict[str, str]:
    """Give what is remembered of these prices (price id -> plan key)."""
    result = await connection.execute(_FIND, {"ids": sorted(price_ids)})
    return {row.price_id: row.plan_key for row in result}


def learn(connection: Connection, rows: Sequence[PriceRow]) -> Answer[Result]:
    """Keep prices that a payload or a read explained; what Stripe's list of prices said before stays. First in the order of locks."""
    values = {
        "ids": [row.price_id for row in rows],
        "plans": [row.plan_key for row in rows],
        "keys": [row.price_key for row in rows],
        "lookups": [row.lookup_key for row in rows],
    }
    return connection.send(_LEARN, values)


async def remember(connection: Connection, checked: Sequence[tuple[str, str]], rows: Sequence[PriceRow]) -> None:
    """Keep what the checked (plan key, price key) pairs resolve to now; what was current for them before is kept as past."""
    ids = [row.price_id for row in rows]
    retired = {"plans": [pair[0] for pair in checked], "keys": [pair[1] for pair in checked]}
    await connection.execute(_LOCK, {"key": LockKey.PRICES})
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
