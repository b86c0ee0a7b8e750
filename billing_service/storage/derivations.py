"""With which version of the catalog something was worked out that is kept for all customers."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from billing_service.storage.database import Connection

NEXT_CHANGE = "next_change_time"
PRICES = "prices"  # whose holders were looked at; not the catalog's, but the prices that stand for plans

_STAMP = "extract(epoch FROM update_time)::text"
_VERSION = sa.text(f"SELECT version, {_STAMP} AS stamp FROM derivations WHERE name = :name")  # noqa: S608 - a constant, here and below
_SET = sa.text("""
    INSERT INTO derivations (name, version) VALUES (:name, :version)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, update_time = now()
""")
# By the clock of the database, which is one for all processes.
_IN_USE = "in use: "
_GONE = sa.text(f"""
    SELECT version, {_STAMP} AS stamp FROM derivations
    WHERE name LIKE :prefix || '%' AND version <> :version AND update_time < now() - make_interval(secs => :silent_s)
    ORDER BY version
""")  # noqa: S608
_FORGET = sa.text(f"""
    DELETE FROM derivations
    WHERE (name, {_STAMP}) IN (SELECT * FROM unnest(CAST(:names AS text[]), CAST(:stamps AS text[])))
""")  # noqa: S608


async def version(connection: Connection, name: str) -> str | None:
    """Say with which version something was worked out last."""
    found: str | None = await connection.scalar(_VERSION, {"name": name})
    return found


async def stamped(connection: Connection, name: str) -> tuple[str, str] | None:
    """Say the same, and a stamp that differs each time that it is kept."""
    row = (await connection.execute(_VERSION, {"name": name})).one_or_none()
    return None if row is None else (row.version, row.stamp)


async def set_version(connection: Connection, name: str, version: str) -> None:
    """Keep that it was worked out with this version."""
    await connection.execute(_SET, {"name": name, "version": version})


async def beat(connection: Connection, version: str) -> None:
    """Keep that a process works with this version now."""
    await set_version(connection, _IN_USE + version, version)


async def gone(connection: Connection, version: str, silent_s: float) -> Mapping[str, str]:
    """Give the other versions that processes worked with, of which none has said so for as long, with the stamp of the last time."""
    values = {"prefix": _IN_USE, "version": version, "silent_s": silent_s}
    return {row.version: row.stamp for row in await connection.execute(_GONE, values)}


async def forget(connection: Connection, gone: Mapping[str, str]) -> None:
    """Forget versions that nobody works with, but for those that somebody has begun to work with again."""
    values = {"names": [_IN_USE + version for version in gone], "stamps": list(gone.values())}
    await connection.execute(_FORGET, values)
