"""Each content of the catalog that was ever used, since when; and who still has what a plan gives that is to vanish."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from billing_service.storage.database import Connection
from billing_service.storage.lock_keys import LockKey


@dataclass(frozen=True)
class KeptCatalog:
    """A content of the catalog under its version."""

    version: str
    content: Mapping[str, Any]


_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_CURRENT = """
    SELECT v.version, v.content::text AS content
    FROM catalog_activations AS a JOIN catalog_versions AS v ON v.version = a.version
"""
_LATEST = sa.text(f"{_CURRENT} ORDER BY a.activation_id DESC LIMIT 1")
_AT = sa.text(f"{_CURRENT} WHERE a.active_since <= :time ORDER BY a.activation_id DESC LIMIT 1")
_KEPT_SINCE = sa.text("SELECT min(active_since) FROM catalog_activations")
_KEEP = sa.text("""
    INSERT INTO catalog_versions (version, content) VALUES (:version, CAST(:content AS jsonb)) ON CONFLICT DO NOTHING
""")
_ACTIVATE = sa.text("INSERT INTO catalog_activations (version, active_since) VALUES (:version, :active_since)")
_PLANS_EVER = sa.text("""
    SELECT plan_key FROM prices
  UNION
    SELECT plan ->> 'plan_key' FROM catalog_versions, jsonb_array_elements(content -> 'plans') AS plan
""")
# Reads every customer, and only where a plan is missing that was there once. A purchase for a duration counts until it is
# over, by the last content that had the plan; a grant until it ends, also one that has not begun.
_HOLDERS = sa.text("""
    WITH gone AS (
        SELECT key, (
            SELECT CAST(plan ->> 'duration_s' AS bigint)
            FROM catalog_activations AS a JOIN catalog_versions AS v ON v.version = a.version,
                 jsonb_array_elements(v.content -> 'plans') AS plan
            WHERE plan ->> 'plan_key' = key ORDER BY a.activation_id DESC LIMIT 1) AS duration_s
        FROM unnest(CAST(:plan_keys AS text[])) AS key
    ), held AS (
        SELECT c.customer_id, p.plan_key
        FROM customers AS c, jsonb_array_elements(c.facts -> 'subscriptions') AS s, jsonb_array_elements(s -> 'items') AS item
        JOIN prices AS p ON p.price_id = item ->> 'price_id'
        WHERE s ->> 'status' NOT IN ('canceled', 'incomplete_expired') AND p.plan_key = ANY(CAST(:plan_keys AS text[]))
      UNION
        SELECT c.customer_id, gone.key
        FROM customers AS c, jsonb_array_elements(c.facts -> 'purchases') AS b JOIN gone ON gone.key = b ->> 'plan_key'
        WHERE NOT coalesce(CAST(b ->> 'fully_refunded' AS boolean), false)
          AND (gone.duration_s IS NULL
               OR coalesce(CAST(b ->> 'paid_time' AS bigint), CAST(b ->> 'created' AS bigint)) + gone.duration_s
                  > extract(epoch FROM CAST(:now AS timestamptz)))
      UNION
        SELECT c.customer_id, g ->> 'plan_key'
        FROM customers AS c, jsonb_array_elements(c.facts -> 'grants') AS g
        WHERE g ->> 'plan_key' = ANY(CAST(:plan_keys AS text[]))
          AND coalesce(CAST(g ->> 'end' AS timestamptz) > CAST(:now AS timestamptz), true)
    )
    SELECT plan_key, count(DISTINCT customer_id) AS customers FROM held GROUP BY plan_key ORDER BY plan_key
""")


async def lock(connection: Connection) -> None:
    """Let no other process change the catalog before this transaction ends. It may read every customer, and holds up no writer."""
    await connection.execute(_LOCK, {"key": LockKey.CATALOG})


async def latest(connection: Connection) -> KeptCatalog | None:
    """Give the content that was activated last, or None."""
    return _kept((await connection.execute(_LATEST)).one_or_none())


async def active_at(connection: Connection, time: datetime) -> KeptCatalog | None:
    """Give the content that was active at a time; None where that lies before the first."""
    return _kept((await connection.execute(_AT, {"time": time})).one_or_none())


async def kept_since(connection: Connection) -> datetime | None:
    """Say since when contents are kept."""
    found: datetime | None = await connection.scalar(_KEPT_SINCE)
    return found


async def activate(connection: Connection, kept: KeptCatalog, active_since: datetime) -> None:
    """Keep a content, and that it is active from now on. Needs the lock."""
    content = msgspec.json.encode(kept.content).decode()
    await connection.execute(_KEEP, {"version": kept.version, "content": content})
    await connection.execute(_ACTIVATE, {"version": kept.version, "active_since": active_since})


async def plan_keys_ever(connection: Connection) -> set[str]:
    """Give the key of every plan that was ever in the catalog, or that a price ever stood for."""
    return {row.plan_key for row in await connection.execute(_PLANS_EVER)}


async def holders(connection: Connection, plan_keys: Collection[str], now: datetime) -> Mapping[str, int]:
    """Count the customers who have live sources of these plans, by plan; plans that nobody has are left out."""
    result = await connection.execute(_HOLDERS, {"plan_keys": sorted(plan_keys), "now": now})
    return {row.plan_key: row.customers for row in result}


def _kept(row: sa.Row[Any] | None) -> KeptCatalog | None:
    return None if row is None else KeptCatalog(row.version, msgspec.json.decode(row.content))
