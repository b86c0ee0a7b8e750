"""What was given by hand, with who gave it and why. The customer's row has a copy of what still counts, written under its lock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from billing_service.domain.grant import GrantFacts
from billing_service.domain.operator import Grant, Order
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection

_COLUMNS = """grant_id, customer_id, plan_key, quantity, feature_key, value::text AS value, override, start_time, expire_time,
    actor, reason, create_time, revoke_time, revoke_actor, revoke_reason, identity, revoke_identity"""
_INSERT = sa.text("""
    INSERT INTO grants (
        grant_id, customer_id, plan_key, quantity, feature_key, value, override, start_time, expire_time, actor, reason,
        create_time, identity)
    VALUES (:grant_id, :customer_id, :plan_key, :quantity, :feature_key, CAST(:value AS jsonb), :override, :start_time,
            :expire_time, :actor, :reason, :create_time, :identity)
""")
_FIND = sa.text(f"SELECT {_COLUMNS} FROM grants WHERE grant_id = :grant_id")  # noqa: S608 - a constant of this module, here and below
_COUNTING = sa.text(f"""
    SELECT {_COLUMNS} FROM grants
    WHERE customer_id = :customer_id AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > :now)
    ORDER BY grant_id
""")  # noqa: S608
_REVOKE = sa.text("""
    UPDATE grants SET revoke_time = :now, revoke_actor = :actor, revoke_reason = :reason, revoke_identity = :identity
    WHERE grant_id = :grant_id AND revoke_time IS NULL
""")
_PAGE = sa.text(f"""
    SELECT {_COLUMNS} FROM grants
    WHERE (CAST(:customer_id AS text) IS NULL OR customer_id = :customer_id)
      AND (:ended OR (revoke_time IS NULL AND (expire_time IS NULL OR expire_time > :now)))
      AND (CAST(:before AS timestamptz) IS NULL OR (create_time, grant_id) < (:before, CAST(:before_id AS text) COLLATE "C"))
    ORDER BY create_time DESC, grant_id DESC LIMIT :most
""")  # noqa: S608
_ERASE = sa.text("""
    UPDATE grants SET reason = '', revoke_reason = CASE WHEN revoke_reason IS NOT NULL THEN '' END
    WHERE grant_id IN (
        SELECT grant_id FROM grants WHERE customer_id = :customer_id AND (reason <> '' OR revoke_reason <> '')
        ORDER BY grant_id LIMIT :most FOR UPDATE)
""")


def insert(connection: Connection, grant: Grant) -> Answer[Result]:
    """Write a grant of a locked customer."""
    facts = grant.facts
    values = {
        "grant_id": facts.grant_id,
        "customer_id": grant.customer_id,
        "plan_key": facts.plan_key,
        "quantity": facts.quantity,
        "feature_key": facts.feature_key,
        "value": None if facts.feature_key is None else msgspec.json.encode(facts.value).decode(),
        "override": facts.override,
        "start_time": facts.start,
        "expire_time": facts.end,
        "actor": grant.actor,
        "reason": grant.reason,
        "create_time": grant.create_time,
        "identity": grant.identity,
    }
    return connection.send(_INSERT, values)


async def find(connection: Connection, grant_id: str) -> Grant | None:
    """Give a grant, or None."""
    row = (await connection.execute(_FIND, {"grant_id": grant_id})).one_or_none()
    return None if row is None else _grant(row)


async def counting(connection: Connection, customer_id: str, now: datetime) -> Sequence[Grant]:
    """Give the grants of a customer that are neither revoked nor over, in the order of their ids."""
    return [_grant(row) for row in await connection.execute(_COUNTING, {"customer_id": customer_id, "now": now})]


def revoke(connection: Connection, grant_id: str, order: Order, now: datetime) -> Answer[Result]:
    """End a grant of a locked customer, unless it was revoked before."""
    values = {"actor": order.actor, "identity": order.identity, "reason": order.reason}
    return connection.send(_REVOKE, {"grant_id": grant_id, "now": now} | values)


async def page(
    connection: Connection,
    customer_id: str | None,
    now: datetime,
    before: tuple[datetime, str] | None,
    most: int,
    *,
    ended: bool,
) -> Sequence[Grant]:
    """Give the next grants, the newest first, after a place (when it was made, and its id)."""
    time, grant_id = before or (None, None)
    values = {
        "customer_id": customer_id,
        "now": now,
        "before": time,
        "before_id": grant_id,
        "most": most,
        "ended": ended,
    }
    return [_grant(row) for row in await connection.execute(_PAGE, values)]


async def erase_reasons(connection: Connection, customer_id: str, most: int) -> int:
    """Empty the reasons of a customer's grants; say of how many, `most` at most."""
    return (await connection.execute(_ERASE, {"customer_id": customer_id, "most": most})).rowcount


def _grant(row: sa.Row[Any]) -> Grant:
    facts = GrantFacts(
        grant_id=row.grant_id,
        start=row.start_time,
        end=row.expire_time,
        override=row.override,
        plan_key=row.plan_key,
        quantity=row.quantity,
        feature_key=row.feature_key,
        value=None if row.value is None else msgspec.json.decode(row.value, type=bool | int | str | None),
    )
    return Grant(
        customer_id=row.customer_id,
        facts=facts,
        actor=row.actor,
        reason=row.reason,
        create_time=row.create_time,
        revoke_time=row.revoke_time,
        revoke_actor=row.revoke_actor,
        revoke_reason=row.revoke_reason,
        identity=row.identity,
        revoke_identity=row.revoke_identity,
    )
