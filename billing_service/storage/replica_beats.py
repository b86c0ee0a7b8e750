"""Beats: numbers that a process writes to the primary, to find them in a replica's answers."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from billing_service.storage.database import Connection

_WRITE = sa.text("""
    INSERT INTO replica_beats (writer, beat) VALUES (:writer, :beat)
    ON CONFLICT (writer) DO UPDATE SET beat = excluded.beat, update_time = now()
""")
# Of processes that are gone. One that lives writes every few seconds at the least.
_FORGET = sa.text("DELETE FROM replica_beats WHERE update_time < now() - interval '1 day'")


async def write(connection: Connection, writer: UUID, beat: int) -> None:
    """Write a process's latest beat."""
    await connection.execute(_WRITE, {"writer": writer, "beat": beat})


async def forget(connection: Connection) -> None:
    """Take out the beats of processes that are gone."""
    await connection.execute(_FORGET)
