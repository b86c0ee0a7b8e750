"""With which version of the catalog something was worked out that is kept for all customers."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from billing_service.storage.database import Connection

NEXT_CHANGE = "next_change_time"
PRICES = "prices"  # whose holders were looked at; not the catalog's, but the prices that stand for plans

_VERSION = sa.text("SELECT version FROM derivations WHERE name = :name")
_SET = sa.text("""
    INSERT INTO derivations (name, version) VALUES (:name, :version)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, update_time = now()
""")
# By the clock of the database, which is one for all processes.
_IN_USE = "in use: "
_GONE = sa.text("""
    SELECT version FROM derivations
    WHERE name LIKE :prefix || '%' AND version <> :version AND update_time < now() - make_interval(secs => :silent_s)
    ORDER BY version
""")
_FORGET = sa.text("""
    DELETE FROM derivations
    WHERE name = ANY(CAST(:names AS text[])) AND update_time < now() - make_interval(secs => :silent_s)
""")


async def version(connection: Connection, name: str) -> str | None:
    """Say with which version something was worked out last."""
    found: str | None = await connection.scalar(_VERSION, {"name": name})
    return found


async def set_version(connection: Connection, name: str, version: str) -> None:
    """Keep that it was worked out with this version."""
    await connection.execute(_SET, {"name": name, "version": version})


async def beat(connection: Connection, version: str) -> None:
    """Keep that a process works with this version now."""
    await set_version(connection, _IN_USE + version, version)


async def gone(connection: Connection, version: str, silent_s: float) -> Sequence[str]:
    """Give the other versions that processes worked with, of which none has said so for as long."""
    values = {"prefix": _IN_USE, "version": version, "silent_s": silent_s}
    return [row.version for row in await connection.execute(_GONE, values)]


async def forget(connection: Connection, versions: Sequence[str], silent_s: float) -> None:
    """Forget versions that nobody works with, but for those that somebody has begun to work with again."""
    values = {"names": [_IN_USE + version for version in versions], "silent_s": silent_s}
    await connection.execute(_FORGET, values)
