"""Requests to change a subscription, by the caller's request id.

    changing ──▶ done | superseded

At most one of a subscription is `changing`. A request that was refused is forgotten: nothing came of it.
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
    operation: Operation
    state: ChangeState
    attempt: int
    item_id: str | None  # with the body: the item by which the answer describes the subscription
    request_body: Mapping[str, Any] | None  # None: not rendered, so that this attempt sent nothing
    busy_until: datetime | None  # until when whoever carries it out keeps other changes away
    answer: Subscription | None
    create_time: datetime


_COLUMNS = """request_id, intent_id, fingerprint, customer_id, stripe_subscription_id, operation, state, attempt,
    subscription_item_id, request_body, busy_until, answer::text AS answer, create_time"""
_FIND = sa.text(f"SELECT {_COLUMNS} FROM subscription_requests WHERE request_id = :request_id")  # noqa: S608 - a constant of this module, here and below
_UNFINISHED = sa.text(f"""
    SELECT {_COLUMNS} FROM subscription_requests
    WHERE stripe_subscription_id = :subscription_id AND state = 'changing'
""")  # noqa: S608
_UNFINISHED_OF = sa.text(f"""
    SELECT {_COLUMNS} FROM subscription_requests WHERE customer_id = :customer_id AND state = 'changing'
    ORDER BY create_time DESC, request_id LIMIT :most
""")  # noqa: S608
_INSERT = sa.text("""
    INSERT INTO subscription_requests (
        request_id, intent_id, fingerprint, customer_id, stripe_subscription_id, operation, state, attempt, busy_until,
        create_time)
    VALUES (:request_id, :intent_id, :fingerprint, :customer_id, :subscription_id, :operation, :state, :attempt,
            :busy_until, :create_time)
    ON CONFLICT (request_id) DO NOTHING
    RETURNING 1
""")
# Whoever has just taken it up again is waited for: the row's lock makes either this or the hold the first.
_SUPERSEDE = sa.text("""
    UPDATE subscription_requests SET state = 'superseded', busy_until = NULL, update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing' AND (busy_until IS NULL OR busy_until <= :now)
    RETURNING 1
""")
_HOLD = sa.text("""
    UPDATE subscription_requests SET busy_until = :until, update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing'
    RETURNING 1
""")
_TAKE_OVER = sa.text("""
    UPDATE subscription_requests SET busy_until = :until, update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing' AND (busy_until IS NULL OR busy_until <= :now)
    RETURNING 1
""")
_LET_GO = sa.text("""
    UPDATE subscription_requests SET busy_until = NULL, update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing' AND busy_until = :until
""")
_PREPARE = sa.text("""
    UPDATE subscription_requests
    SET subscription_item_id = :item_id, request_body = CAST(:body AS jsonb), update_time = now()
    WHERE intent_id = :intent_id AND attempt = :attempt AND state = 'changing' AND request_body IS NULL
""")
_NEXT_ATTEMPT = sa.text("""
    UPDATE subscription_requests
    SET attempt = attempt + 1,
        request_body = CASE WHEN :anew THEN NULL ELSE request_body END,
        subscription_item_id = CASE WHEN :anew THEN NULL ELSE subscription_item_id END,
        update_time = now()
    WHERE intent_id = :intent_id AND attempt = :attempt AND state = 'changing'
""")
_FINISH = sa.text("""
    UPDATE subscription_requests
    SET state = 'done', busy_until = NULL, answer = CAST(:answer AS jsonb), update_time = now()
    WHERE intent_id = :intent_id AND state = 'changing' AND request_body IS NOT NULL
""")
_FORGET_UNPREPARED = sa.text("""
    DELETE FROM subscription_requests WHERE intent_id = :intent_id AND state = 'changing' AND request_body IS NULL
    RETURNING 1
""")
_FORGET = sa.text("""
    DELETE FROM subscription_requests WHERE intent_id = :intent_id AND attempt = :attempt AND state <> 'done'
""")


async def find(connection: Connection, request_id: str) -> Change | None:
    """Give what a request id was used for, or None."""
    row = (await connection.execute(_FIND, {"request_id": request_id})).one_or_none()
    return None if row is None else _change(row)


async def unfinished(connection: Connection, subscription_id: str) -> Change | None:
    """Give the one change of a subscription that is not done, or None. It stays so where its customer is locked."""
    row = (await connection.execute(_UNFINISHED, {"subscription_id": subscription_id})).one_or_none()
    return None if row is None else _change(row)


async def unfinished_of(connection: Connection, customer_id: str, most: int) -> list[Change]:
    """Give the changes of a customer's subscriptions that are not done, the newest first."""
    result = await connection.execute(_UNFINISHED_OF, {"customer_id": customer_id, "most": most})
    return [_change(row) for row in result]


async def insert(connection: Connection, change: Change) -> bool:
    """Write a new change of a locked customer, without its body; say False where the request id is taken."""
    values = {name: getattr(change, name) for name in _INSERTED}
    values |= {"operation": change.operation.value, "state": change.state.value}
    return (await connection.execute(_INSERT, values)).one_or_none() is not None


async def supersede(connection: Connection, intent_id: UUID, now: datetime) -> bool:
    """Give an unfinished change up for a later one; say False where somebody is carrying it out."""
    return (await connection.execute(_SUPERSEDE, {"intent_id": intent_id, "now": now})).one_or_none() is not None


async def hold(connection: Connection, intent_id: UUID, until: datetime) -> bool:
    """Keep other changes of the subscription away until then; say False where the change is not to be made any more."""
    return (await connection.execute(_HOLD, {"intent_id": intent_id, "until": until})).one_or_none() is not None


async def take_over(connection: Connection, intent_id: UUID, now: datetime, until: datetime) -> bool:
    """Hold a change that nobody is carrying out; say False where somebody is, or it is not to be made any more."""
    values = {"intent_id": intent_id, "now": now, "until": until}
    return (await connection.execute(_TAKE_OVER, values)).one_or_none() is not None


async def let_go(connection: Connection, intent_id: UUID, until: datetime) -> None:
    """Let other changes in, unless another call holds this one."""
    await connection.execute(_LET_GO, {"intent_id": intent_id, "until": until})


async def prepare(connection: Connection, change: Change, item_id: str, body: Mapping[str, Any]) -> None:
    """Fix what Stripe is sent with this attempt's keys, unless another call has done so, or has ended the attempt."""
    values = {"intent_id": change.intent_id, "attempt": change.attempt}
    await connection.execute(_PREPARE, values | {"item_id": item_id, "body": msgspec.json.encode(body).decode()})


async def next_attempt(connection: Connection, change: Change, *, anew: bool) -> None:
    """Take the next attempt, and with it the next idempotency keys, unless another call has done so.

    `anew`: what Stripe is sent then is to be rendered anew.
    """
    await connection.execute(_NEXT_ATTEMPT, {"intent_id": change.intent_id, "attempt": change.attempt, "anew": anew})


async def finish(connection: Connection, intent_id: UUID, answer: Subscription) -> None:
    """Store the answer, unless the change was superseded, finished or taken to its next attempt by another call meanwhile."""
    encoded = msgspec.json.encode(answer).decode()
    await connection.execute(_FINISH, {"intent_id": intent_id, "answer": encoded})


async def forget(connection: Connection, change: Change) -> None:
    """Drop a change that came to nothing, so that its request id may be used again; not one that is at another attempt."""
    await connection.execute(_FORGET, {"intent_id": change.intent_id, "attempt": change.attempt})


async def forget_unprepared(connection: Connection, intent_id: UUID) -> bool:
    """Drop a change of which nothing can have been sent; say False where another call has prepared it."""
    return (await connection.execute(_FORGET_UNPREPARED, {"intent_id": intent_id})).one_or_none() is not None


_INSERTED = (
    "request_id",
    "intent_id",
    "fingerprint",
    "customer_id",
    "subscription_id",
    "attempt",
    "busy_until",
    "create_time",
)


def _change(row: sa.Row[Any]) -> Change:
    return Change(
        request_id=row.request_id,
        intent_id=row.intent_id,
        fingerprint=row.fingerprint,
        customer_id=row.customer_id,
        subscription_id=row.stripe_subscription_id,
        operation=Operation(row.operation),
        state=ChangeState(row.state),
        attempt=row.attempt,
        item_id=row.subscription_item_id,
        request_body=row.request_body,
        busy_until=row.busy_until,
        answer=None if row.answer is None else msgspec.json.decode(row.answer, type=Subscription),
        create_time=row.create_time,
    )
