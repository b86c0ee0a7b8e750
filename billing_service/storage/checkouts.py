"""Attempts to buy: intents, and the requests that asked for them.

    creating ──▶ open ──▶ completed | expired
       │          └─────▶ expiring ──▶ superseded | completed
       └─▶ superseded | refused | abandoned

At most one of a customer and plan group is `creating` or `open`. A catalog may have regrouped its plans since an intent was
made: what is asked of a group goes by the plans that are in it now, and by the name that was kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa

from billing_service.domain.checkout import PlanGroup
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection


class IntentState(StrEnum):
    """Where an intent stands."""

    CREATING = "creating"  # committed; what Stripe made of it is not known yet
    OPEN = "open"
    EXPIRING = "expiring"  # superseded; its session is still to be expired at Stripe
    COMPLETED = "completed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    REFUSED = "refused"  # the customer turned out to be subscribed
    ABANDONED = "abandoned"  # never finished while its idempotency key was good


@dataclass(frozen=True)
class Intent:
    """One attempt to buy, with the body that Stripe is sent (all but the Stripe customer)."""

    intent_id: UUID
    customer_id: str
    plan_key: str
    price_key: str
    plan_group: str
    quantity: int
    fingerprint: bytes
    state: IntentState
    attempt: int
    request_body: Mapping[str, Any]
    stripe_customer_id: str | None
    checkout_session_id: str | None
    url: str | None
    expire_time: datetime
    create_time: datetime


@dataclass(frozen=True)
class StoredRequest:
    """A request id that was seen, and what it was answered with."""

    fingerprint: bytes
    reused: bool
    intent: Intent


_COLUMNS = """i.intent_id, i.customer_id, i.plan_key, i.price_key, i.plan_group, i.quantity, i.fingerprint, i.state,
    i.attempt, i.request_body, i.stripe_customer_id, i.checkout_session_id, i.url, i.expire_time, i.create_time"""
_BY_REQUEST = sa.text(f"""
    SELECT r.fingerprint AS request_fingerprint, r.reused, {_COLUMNS}
    FROM checkout_requests AS r JOIN checkout_intents AS i ON i.intent_id = r.intent_id
    WHERE r.request_id = :request_id
""")  # noqa: S608 - the columns are a constant of this module, here and below
_BY_SESSION = sa.text(f"SELECT {_COLUMNS} FROM checkout_intents AS i WHERE checkout_session_id = :id")  # noqa: S608
_BY_ID = sa.text(f"SELECT {_COLUMNS} FROM checkout_intents AS i WHERE intent_id = :intent_id")  # noqa: S608
# The name that was kept counts too: the index on unfinished intents goes by it.
_OF_GROUP = (
    "i.customer_id = :customer_id AND (i.plan_group = :plan_group OR i.plan_key = ANY(CAST(:plan_keys AS text[])))"
)
_UNFINISHED = sa.text(f"""
    SELECT {_COLUMNS} FROM checkout_intents AS i WHERE {_OF_GROUP} AND i.state IN ('creating', 'open') ORDER BY i.intent_id
""")  # noqa: S608
_UNFINISHED_OF = sa.text(f"""
    SELECT {_COLUMNS} FROM checkout_intents AS i
    WHERE customer_id = :customer_id AND state IN ('creating', 'open', 'expiring')
    ORDER BY create_time DESC, intent_id LIMIT :most
""")  # noqa: S608
_EXPIRING = sa.text(f"""
    SELECT {_COLUMNS} FROM checkout_intents AS i
    WHERE {_OF_GROUP} AND i.state = 'expiring' ORDER BY i.intent_id LIMIT 20
""")  # noqa: S608
# A completed session names its subscription, and nothing was heard of that one yet.
_UNHEARD = sa.text(f"""
    SELECT i.checkout_session_id
    FROM checkout_intents AS i JOIN stripe_objects AS o ON o.object_id = i.checkout_session_id
    WHERE {_OF_GROUP} AND i.state = 'completed'
      AND coalesce(o.payload_view ->> 'subscription_id', o.read_view ->> 'subscription_id') IS NOT NULL
      AND NOT EXISTS (
          SELECT 1 FROM stripe_objects AS s
          WHERE s.object_id = coalesce(o.payload_view ->> 'subscription_id', o.read_view ->> 'subscription_id'))
    ORDER BY i.intent_id LIMIT 20
""")  # noqa: S608
# On a page that can still be paid, or that was: its subscription may not have been heard of yet. That an open one has expired is for
# Stripe to say, not for our clock: it may have been paid in its last minute. Those of the group that are to be expired go first.
_WITH_TRIAL = "i.customer_id = :customer_id AND i.request_body #> '{subscription_data,trial_period_days}' IS NOT NULL"
_TRIAL = sa.text(f"""
    SELECT EXISTS (
        SELECT 1 FROM checkout_intents AS i
        WHERE {_WITH_TRIAL}
          AND (i.state IN ('completed', 'open') OR (i.state = 'creating' AND i.expire_time > :now)
               OR (i.state = 'expiring' AND NOT ({_OF_GROUP}))))
""")  # noqa: S608
_OVERDUE_TRIALS = sa.text(f"""
    SELECT {_COLUMNS} FROM checkout_intents AS i
    WHERE {_WITH_TRIAL} AND i.state IN ('open', 'expiring') AND i.expire_time <= :now ORDER BY i.intent_id LIMIT 20
""")  # noqa: S608
_INSERT = sa.text("""
    INSERT INTO checkout_intents (
        intent_id, customer_id, plan_key, price_key, plan_group, quantity, fingerprint, state, attempt, request_body,
        expire_time, create_time)
    VALUES (:intent_id, :customer_id, :plan_key, :price_key, :plan_group, :quantity, :fingerprint, :state, :attempt,
            CAST(:request_body AS jsonb), :expire_time, :create_time)
""")
_INSERT_REQUEST = sa.text("""
    INSERT INTO checkout_requests (request_id, fingerprint, intent_id, reused)
    VALUES (:request_id, :fingerprint, :intent_id, :reused)
    ON CONFLICT (request_id) DO UPDATE SET intent_id = excluded.intent_id, reused = excluded.reused
    WHERE checkout_requests.fingerprint = excluded.fingerprint
    RETURNING 1
""")
_MOVE = sa.text("""
    UPDATE checkout_intents SET state = :state, update_time = now(), url = CASE WHEN :keep_url THEN url END
    WHERE intent_id = :intent_id AND state = :before
    RETURNING 1
""")
_OPEN = sa.text("""
    UPDATE checkout_intents
    SET state = 'open', checkout_session_id = :checkout_session_id, url = :url, expire_time = :expire_time,
        update_time = now()
    WHERE intent_id = :intent_id AND state = 'creating'
    RETURNING 1
""")
# The other end of superseding: the session was made after all, and is to be expired.
_LATE = sa.text("""
    UPDATE checkout_intents
    SET state = 'expiring', checkout_session_id = :checkout_session_id, update_time = now()
    WHERE intent_id = :intent_id AND state IN ('superseded', 'refused', 'abandoned') AND checkout_session_id IS NULL
    RETURNING 1
""")
_NEXT_ATTEMPT = sa.text("""
    UPDATE checkout_intents
    SET attempt = attempt + 1, stripe_customer_id = NULL, request_body = CAST(:request_body AS jsonb),
        expire_time = :expire_time, update_time = now()
    WHERE intent_id = :intent_id AND state = 'creating' AND attempt = :attempt
""")
_SET_CUSTOMER = sa.text("""
    UPDATE checkout_intents SET stripe_customer_id = :stripe_customer_id, update_time = now()
    WHERE intent_id = :intent_id AND attempt = :attempt AND stripe_customer_id IS NULL
""")
# What Stripe says of a session is final over whatever we meant to do with it; completed over everything.
_SETTLE = sa.text("""
    WITH said AS (
        SELECT * FROM unnest(CAST(:session_ids AS text[]), CAST(:intent_ids AS uuid[]), CAST(:states AS text[]))
            AS n (session_id, intent_id, state)
    ), meant AS (
        SELECT i.intent_id, said.session_id, said.state
        FROM said JOIN checkout_intents AS i ON i.checkout_session_id = said.session_id
      UNION
        SELECT i.intent_id, said.session_id, said.state
        FROM said JOIN checkout_intents AS i ON i.intent_id = said.intent_id
        WHERE i.checkout_session_id IS NULL AND i.state = 'creating'
    )
    UPDATE checkout_intents AS i
    SET state = s.state, checkout_session_id = s.session_id, url = NULL, update_time = now()
    FROM meant AS s
    WHERE i.intent_id = s.intent_id AND i.state <> s.state
      AND (s.state = 'completed' OR i.state IN ('creating', 'open'))
""")


async def unfinished_of(connection: Connection, customer_id: str, most: int) -> list[Intent]:
    """Give the attempts of a customer that are not finished, the newest first."""
    result = await connection.execute(_UNFINISHED_OF, {"customer_id": customer_id, "most": most})
    return [_intent(row) for row in result]


async def find_request(connection: Connection, request_id: str) -> StoredRequest | None:
    """Give what a request id was used for, or None."""
    row = (await connection.execute(_BY_REQUEST, {"request_id": request_id})).one_or_none()
    return None if row is None else StoredRequest(row.request_fingerprint, row.reused, _intent(row))


async def find_session(connection: Connection, checkout_session_id: str) -> Intent | None:
    """Give the intent that made a Stripe session, or None."""
    row = (await connection.execute(_BY_SESSION, {"id": checkout_session_id})).one_or_none()
    return None if row is None else _intent(row)


async def find(connection: Connection, intent_id: UUID) -> Intent:
    """Give an intent that exists."""
    return _intent((await connection.execute(_BY_ID, {"intent_id": intent_id})).one())


async def unfinished(connection: Connection, customer_id: str, group: PlanGroup) -> list[Intent]:
    """Give the intents of a locked customer and a group that are being created or open: one, unless plans were regrouped."""
    return [_intent(row) for row in await connection.execute(_UNFINISHED, _of_group(customer_id, group))]


async def offers_trial(connection: Connection, customer_id: str, group: PlanGroup, now: datetime) -> bool:
    """Say whether a locked customer was offered a trial on a page that was paid, or still can be beside one of this group."""
    return bool(await connection.scalar(_TRIAL, {**_of_group(customer_id, group), "now": now}))


async def overdue_trials(connection: Connection, customer_id: str, now: datetime) -> list[Intent]:
    """Give the pages with a trial of which nobody said what became of them, though their time is over: 20 at most."""
    result = await connection.execute(_OVERDUE_TRIALS, {"customer_id": customer_id, "now": now})
    return [_intent(row) for row in result]


async def expiring(connection: Connection, customer_id: str, group: PlanGroup) -> list[Intent]:
    """Give intents whose sessions are still to be expired at Stripe: 20 at most, the rest at the next call."""
    return [_intent(row) for row in await connection.execute(_EXPIRING, _of_group(customer_id, group))]


async def unheard(connection: Connection, customer_id: str, group: PlanGroup) -> list[str]:
    """Give completed sessions of a group whose subscriptions are not known yet: bought, but not to be seen in the facts."""
    result = await connection.execute(_UNHEARD, _of_group(customer_id, group))
    return [row.checkout_session_id for row in result]


async def insert(connection: Connection, intent: Intent) -> None:
    """Write a new intent of a locked customer."""
    await connection.execute(
        _INSERT,
        {
            **{key: value for key, value in vars(intent).items() if key in _INSERTED},
            "state": intent.state.value,
            "request_body": msgspec.json.encode(intent.request_body).decode(),
        },
    )


async def insert_request(
    connection: Connection, request_id: str, fingerprint: bytes, intent_id: UUID, *, reused: bool
) -> bool:
    """Remember what a request id asked for and got; say False where it is remembered with other parameters."""
    values = {"request_id": request_id, "fingerprint": fingerprint, "intent_id": intent_id, "reused": reused}
    return (await connection.execute(_INSERT_REQUEST, values)).one_or_none() is not None


async def move(connection: Connection, intent_id: UUID, before: IntentState, after: IntentState) -> bool:
    """Move an intent from one state to another; say whether it was in the first."""
    values = {
        "intent_id": intent_id,
        "before": before.value,
        "state": after.value,
        "keep_url": after is IntentState.OPEN,
    }
    return (await connection.execute(_MOVE, values)).one_or_none() is not None


async def open_session(
    connection: Connection, intent_id: UUID, checkout_session_id: str, url: str, expire_time: datetime
) -> bool:
    """Record the session that Stripe made; say False where the intent was superseded or settled meanwhile."""
    values = {
        "intent_id": intent_id,
        "checkout_session_id": checkout_session_id,
        "url": url,
        "expire_time": expire_time,
    }
    return (await connection.execute(_OPEN, values)).one_or_none() is not None


async def late_session(connection: Connection, intent_id: UUID, checkout_session_id: str) -> bool:
    """Record a session that Stripe made for an intent that was given up meanwhile; it is to be expired."""
    values = {"intent_id": intent_id, "checkout_session_id": checkout_session_id}
    return (await connection.execute(_LATE, values)).one_or_none() is not None


async def next_attempt(
    connection: Connection, intent: Intent, request_body: Mapping[str, Any], expire_time: datetime
) -> None:
    """Take the next attempt, and with it the next idempotency key, unless another call has done so."""
    values = {
        "intent_id": intent.intent_id,
        "attempt": intent.attempt,
        "request_body": msgspec.json.encode(request_body).decode(),
        "expire_time": expire_time,
    }
    await connection.execute(_NEXT_ATTEMPT, values)


async def set_stripe_customer(connection: Connection, intent_id: UUID, attempt: int, stripe_customer_id: str) -> Intent:
    """Fix the Stripe customer of an attempt, once, and give the intent as it is now."""
    values = {"intent_id": intent_id, "attempt": attempt, "stripe_customer_id": stripe_customer_id}
    await connection.execute(_SET_CUSTOMER, values)
    return await find(connection, intent_id)


def settle(connection: Connection, sessions: Sequence[tuple[str, UUID | None, IntentState]]) -> Answer[Result]:
    """Record what Stripe said of sessions: (session id, our intent id on it, completed or expired)."""
    values = {
        "session_ids": [session[0] for session in sessions],
        "intent_ids": [session[1] for session in sessions],
        "states": [session[2].value for session in sessions],
    }
    return connection.send(_SETTLE, values)


_INSERTED = frozenset(
    {
        "intent_id", "customer_id", "plan_key", "price_key", "plan_group", "quantity", "fingerprint", "attempt",
        "expire_time", "create_time",
    }
)  # fmt: skip


def _of_group(customer_id: str, group: PlanGroup) -> dict[str, Any]:
    return {"customer_id": customer_id, "plan_group": group.name, "plan_keys": list(group.plan_keys)}


def _intent(row: sa.Row[Any]) -> Intent:
    return Intent(
        intent_id=row.intent_id,
        customer_id=row.customer_id,
        plan_key=row.plan_key,
        price_key=row.price_key,
        plan_group=row.plan_group,
        quantity=row.quantity,
        fingerprint=row.fingerprint,
        state=IntentState(row.state),
        attempt=row.attempt,
        request_body=row.request_body,
        stripe_customer_id=row.stripe_customer_id,
        checkout_session_id=row.checkout_session_id,
        url=row.url,
        expire_time=row.expire_time,
        create_time=row.create_time,
    )
