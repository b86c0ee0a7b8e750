"""Requests to change a subscription, by the caller's request id.

    changing ──▶ done | superseded

At most one of a subscription is `changing`. A request that Stripe refused is forgotten: nothing came of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from billing_service.domain.subscription import Operation, Subscription
from billing_service.storage.database import Connection


class ChangeState(StrEnum):
    """Where a change stands."""

    CHANGING = "changing"  # committed; what Stripe made of it is not known yet
    DONE = "done"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Change:
    """One request to change a subscription, with what Stripe is sent for it."""

    request_id: str
    intent_id: UUID
    fingerprint: bytes
    customer_id: str
    subscription_id: str
    item_id: str
    operation: Operation
    state: ChangeState
    attempt: int
    request_body: Mapping[str, Any]
    busy_until: datetime | None  # until when whoever carries it out keeps other changes away
    answer: Subscription | None
    create_time: datetime


_COLUMNS = """request_id, intent_id, fingerprint, customer_id, stripe_subscription_id, subscription_item_id, operation,
    state, attempt, request_body, busy_until, answer::text AS answer, create_time"""
_FIND = sa.text(f"SELECT {_COLUMNS} FROM subscription_requests WHERE request_id = :request_id")  # noqa: S608 - a constant of this module, here and below
_UNFINISHED = sa.text(f"""
    SELECT {_COLUMNS} FROM subscription_requests
    WHERE stripe_subscription_id = :subscription_id AND state = 'changing'
""")  # noqa: S608
_INSERT = sa.text("""
    INSERT INTO subscription_requests (
        request_id, intent_id, fingerprint, customer_id, stripe_subscription_id, subscription_item_id, operation, state,
        attempt, request_body, busy_until, create_time)
    VALUES (:request_id, :intent_id, :fingerprint, :customer_id, :subscription_id, :item_id, :operation, :state,
            :attempt, CAST(:request_body AS jsonb), :busy_until, :create_time)
    ON CONFLICT (request_id) DO NOTHING
    RETURNING 1
""")
_SUPERSEDE = sa.text("""
    UPDATE subscription_requests SET state = 'superseded', busy_until = NULL, update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing'
""")
_HOLD = sa.text("""
    UPDATE subscription_requests SET busy_until = :busy_until, update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing'
""")
_NEXT_ATTEMPT = sa.text("""
    UPDATE subscription_requests SET attempt = attempt + 1, update_time = now()
    WHERE intent_id = :intent_id AND attempt = :attempt AND state = 'changing'
""")
_FINISH = sa.text("""
    UPDATE subscription_requests
    SET state = 'done', busy_until = NULL, answer = CAST(:answer AS jsonb), update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing'
""")
_FORGET = sa.text("DELETE FROM subscription_requests WHERE intent_id = :intent_id AND state <> 'done'")


async def find(connection: Connection, request_id: str) -> Change | None:
    """Give what a request id was used for, or None."""
    row = (await connection.execute(_FIND, {"request_id": request_id})).one_or_none()
    return None if row is None else _change(row)


async def unfinished(connection: Connection, subscription_id: str) -> Change | None:
    """Give the one change of a subscription that is not done, or None. Its customer is locked."""
    row = (await connection.execute(_UNFINISHED, {"subscription_id": subscription_id})).one_or_none()
    return None if row is None else _change(row)


async def insert(connection: Connection, change: Change) -> bool:
    """Write a new change of a locked customer; say False where the request id is taken."""
    values = {
        **{key: value for key, value in vars(change).items() if key != "answer"},
        "operation": change.operation.value,
        "state": change.state.value,
        "request_body": msgspec.json.encode(change.request_body).decode(),
    }
    return (await connection.execute(_INSERT, values)).one_or_none() is not None


async def supersede(connection: Connection, intent_id: UUID) -> None:
    """Give an unfinished change up for a later one."""
    await connection.execute(_SUPERSEDE, {"intent_id": intent_id})


async def hold(connection: Connection, intent_id: UUID, busy_until: datetime | None) -> None:
    """Keep other changes of the subscription away until then; None lets them in."""
    await connection.execute(_HOLD, {"intent_id": intent_id, "busy_until": busy_until})


async def next_attempt(connection: Connection, change: Change) -> None:
    """Take the next attempt, and with it the next idempotency keys, unless another call has done so."""
    await connection.execute(_NEXT_ATTEMPT, {"intent_id": change.intent_id, "attempt": change.attempt})


async def finish(connection: Connection, intent_id: UUID, answer: Subscription) -> None:
    """Store the answer, unless the change was superseded, or finished by another call, meanwhile."""
    encoded = msgspec.json.encode(answer).decode()
    await connection.execute(_FINISH, {"intent_id": intent_id, "answer": encoded})


async def forget(connection: Connection, intent_id: UUID) -> None:
    """Drop a change that came to nothing, so that its request id may be used again."""
    await connection.execute(_FORGET, {"intent_id": intent_id})


def _change(row: sa.Row[Any]) -> Change:
    return Change(
        request_id=row.request_id,
        intent_id=row.intent_id,
        fingerprint=row.fingerprint,
        customer_id=row.customer_id,
        subscription_id=row.stripe_subscription_id,
        item_id=row.subscription_item_id,
        operation=Operation(row.operation),
        state=ChangeState(row.state),
        attempt=row.attempt,
        request_body=row.request_body,
        busy_until=row.busy_until,
        answer=None if row.answer is None else msgspec.json.decode(row.answer, type=Subscription),
        create_time=row.create_time,
    )
