"""The portal configurations that were made at Stripe, by the hash of their content, so that each is made once."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from billing_service.storage.database import Connection


@dataclass(frozen=True)
class PortalConfiguration:
    """One configuration; `configuration_id` None: not made yet, or not heard of."""

    content_hash: str
    attempt: int
    configuration_id: str | None


_ENSURE = sa.text("""
    INSERT INTO portal_configurations (content_hash) VALUES (:content_hash) ON CONFLICT (content_hash) DO NOTHING
""")
_FIND = sa.text("""
    SELECT content_hash, attempt, configuration_id FROM portal_configurations WHERE content_hash = :content_hash
""")
_MADE = sa.text("""
    UPDATE portal_configurations SET configuration_id = :configuration_id, update_time = now()
    WHERE content_hash = :content_hash AND configuration_id IS NULL
""")
_NEXT_ATTEMPT = sa.text("""
    UPDATE portal_configurations SET attempt = attempt + 1, configuration_id = NULL, update_time = now()
    WHERE content_hash = :content_hash AND attempt = :attempt
""")


async def ensure(connection: Connection, content_hash: str) -> PortalConfiguration:
    """Give what is known of a configuration, writing that it is to be made where nothing is."""
    await connection.execute(_ENSURE, {"content_hash": content_hash})
    row = (await connection.execute(_FIND, {"content_hash": content_hash})).one()
    return PortalConfiguration(row.content_hash, row.attempt, row.configuration_id)


async def made(connection: Connection, content_hash: str, configuration_id: str) -> None:
    """Remember what Stripe made, unless another call was quicker."""
    values = {"content_hash": content_hash, "configuration_id": configuration_id}
    await connection.execute(_MADE, values)


async def next_attempt(connection: Connection, configuration: PortalConfiguration) -> None:
    """Take the next attempt, and with it the next idempotency key, unless another call has done so."""
    values = {"content_hash": configuration.content_hash, "attempt": configuration.attempt}
    await connection.execute(_NEXT_ATTEMPT, values)
