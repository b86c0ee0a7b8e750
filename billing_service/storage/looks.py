"""How far a look at every customer has come, and what it is for: kept with each page, so that any process goes on where another ended.

A look is one row, locked for a page at a time: processes take turns at it, and none waits for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from billing_service.domain.frozen import frozen
from billing_service.storage.database import Connection

CATALOG = "look: catalog "  # and the version that is new
OTHERS = "look: others"
PRICES = "look: prices"


@frozen
class Look:
    """One look at everybody."""

    cause: Mapping[str, str]  # what it is for; empty before it has begun
    after: str = ""  # everybody up to this customer was looked at, but for those who are `left`
    is_at_end: bool = False
    left: Sequence[str] = ()  # locked by others when they were passed
    count: int = 0  # of those who were looked at


_BEGIN = sa.text("INSERT INTO derivations (name, version) VALUES (:name, :text) ON CONFLICT (name) DO NOTHING")
_TAKE = sa.text("SELECT version FROM derivations WHERE name = :name FOR UPDATE SKIP LOCKED")
_SAVE = sa.text("UPDATE derivations SET version = :text, update_time = now() WHERE name = :name")
_END = sa.text("DELETE FROM derivations WHERE name = :name")

_decode = msgspec.json.Decoder(Look).decode


async def take(connection: Connection, name: str) -> Look | None:
    """Lock a look, made where there is none, and give how far it has come; None where another process is at it."""
    await connection.execute(_BEGIN, {"name": name, "text": _text(Look({}))})
    found: str | None = await connection.scalar(_TAKE, {"name": name})
    return None if found is None else _decode(found)


async def save(connection: Connection, name: str, look: Look) -> None:
    """Keep how far a locked look has come."""
    await connection.execute(_SAVE, {"name": name, "text": _text(look)})


async def end(connection: Connection, name: str) -> None:
    """Forget a locked look: it is done, or nobody needs it any more."""
    await connection.execute(_END, {"name": name})


def _text(look: Look) -> str:
    return msgspec.json.encode(look).decode()
