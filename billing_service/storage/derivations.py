"""With which version of the catalog something was worked out that is kept for all customers."""

from __future__ import annotations

import sqlalchemy as sa

from billing_service.storage.database import Connection

NEXT_CHANGE = "next_change_time"
PRICES = "prices"  # whose holders were looked at; not the catalog's, but the prices that stand for plans

_VERSION = sa.text("SELECT version FROM derivations WHERE name = :name")
_SET = sa.text("""
    INSERT INTO derivations (name, version) VALUES (:name, :version)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, update_time = now()
""")


async def version(connection: Connection, name: str) -> str | None:
    """Say with which version something was worked out last."""
    found: str | None = await connection.scalar(_VERSION, {"name": name})
    return found


async def set_version(connection: Connection, name: str, version: str) -> None:
    """Keep that it was worked out with this version."""
    await connection.execute(_SET, {"name": name, "version": version})
