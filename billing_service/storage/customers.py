"""Our customers: what each has bought, as facts, in one row that a read loads by its key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import sqlalchemy as sa

from billing_service.domain.facts import CustomerFacts
from billing_service.domain.frozen import frozen
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection

_decode_facts = msgspec.json.Decoder(CustomerFacts).decode


@frozen
class CustomerRow:
    """A customer's facts, and the number of changes of its entitlements."""

    customer_id: str
    revision: int
    facts: CustomerFacts
    # When time alone changes what there is; None where nothing does, and in rows that are not loaded to be written.
    next_change_time: datetime | None = None


# As next_change_time: of somebody whom a changed catalog has looked at again.
NEVER_LOOKED_AT = datetime(1970, 1, 1, tzinfo=UTC)
# The same, of somebody who holds a price that stands for a plan since.
PRICE_RESOLVED = NEVER_LOOKED_AT + timedelta(seconds=1)


class NextCustomers(NamedTuple):
    """Some customers in the order of ids, and who of them is locked."""

    last: str | None  # None where there is no next one
    taken: Sequence[str]
    left: Sequence[str]  # locked by others


@dataclass(frozen=True)
class StripeCustomerDraft:
    """How a customer is, or is about to be, known to Stripe."""

    stripe_customer_id: str | None  # None: not made yet, or not heard of
    idempotency_key: UUID
    request: Mapping[str, Any]  # the body, rendered once, so that a retry sends the same


_ENSURE = sa.text("""
    INSERT INTO customers (customer_id)
    SELECT id FROM unnest(CAST(:ids AS text[])) AS id ORDER BY id COLLATE "C"
    ON CONFLICT (customer_id) DO NOTHING
""")
# NO KEY: with FOR UPDATE, two batches that insert children of one customer deadlock on the foreign key's lock.
# Whoever waited for a row is given it as it is then: PostgreSQL takes the version that it has locked.
_LOCK = sa.text("""
    SELECT customer_id, revision, facts::text AS facts, next_change_time FROM customers
    WHERE customer_id = ANY(CAST(:ids AS text[]))
    ORDER BY customer_id FOR NO KEY UPDATE
""")
_LOAD = sa.text("""
    SELECT customer_id, revision, facts::text AS facts, next_change_time FROM customers
    WHERE customer_id = ANY(CAST(:ids AS text[]))
""")
_SAVE = sa.text("""
    UPDATE customers AS c
    SET facts = n.facts::jsonb, revision = n.revision, next_change_time = n.next_change_time, update_time = now()
    FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:facts AS text[]),
                CAST(:next_changes AS timestamptz[]))
         AS n (customer_id, revision, facts, next_change_time)
    WHERE c.customer_id = n.customer_id
""")
# In the order of the index and in no other, and read from it in that order, whatever is guessed of how many there are: of those who are
# looked at again a million are due at one time, and would be sorted for each batch. Nobody is waited for, so the order of locks is free.
_IN_ORDER = sa.text("SET LOCAL enable_sort = off")
_DUE = sa.text("""
    SELECT customer_id, revision, facts::text AS facts, next_change_time FROM customers
    WHERE next_change_time > :after AND next_change_time <= :now AND customer_id <> ALL(CAST(:but_for AS text[]))
    ORDER BY next_change_time LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
""")
_NEXT_DUE = sa.text("""
    SELECT min(next_change_time) FROM customers
    WHERE next_change_time IS NOT NULL AND customer_id <> ALL(CAST(:but_for AS text[]))
""")
# Who cannot be locked is named, for whoever holds the lock may be about to write what he read before the cause of the look.
_TAKE_NEXT = sa.text("""
    WITH passed AS MATERIALIZED (
        SELECT customer_id FROM customers WHERE customer_id > :after ORDER BY customer_id LIMIT :most),
    wanted AS MATERIALIZED (
        SELECT customer_id FROM passed UNION SELECT customer_id FROM customers WHERE customer_id = ANY(CAST(:left AS text[]))),
    taken AS MATERIALIZED (
        SELECT customer_id FROM customers WHERE customer_id = ANY(ARRAY(SELECT customer_id FROM wanted))
        ORDER BY customer_id FOR NO KEY UPDATE SKIP LOCKED)
    SELECT (SELECT max(customer_id) FROM passed) AS last,
           ARRAY(SELECT customer_id FROM taken) AS taken,
           ARRAY(SELECT customer_id FROM wanted EXCEPT SELECT customer_id FROM taken) AS left_out
""")
_MAKE_DUE = sa.text("""
    UPDATE customers SET next_change_time = :due
    WHERE customer_id = ANY(CAST(:ids AS text[])) AND (next_change_time > :now OR next_change_time IS NULL)
      AND (CAST(:price_ids AS text[]) IS NULL
           OR jsonb_path_query_array(facts, '$.subscriptions[*].items[*].price_id') ?| CAST(:price_ids AS text[]))
""")
_PAGE = sa.text("""
    SELECT customer_id, revision, facts::text AS facts, next_change_time FROM customers
    WHERE customer_id > :after AND (CAST(:ids AS text[]) IS NULL OR customer_id = ANY(CAST(:ids AS text[])))
    ORDER BY customer_id LIMIT :most
""")
_DRAFT = sa.text("""
    SELECT stripe_customer_id, stripe_customer_key, stripe_customer_request FROM customers
    WHERE customer_id = :customer_id
""")
_SAVE_DRAFT = sa.text("""
    UPDATE customers
    SET stripe_customer_key = :key, stripe_customer_request = CAST(:request AS jsonb)
    WHERE customer_id = :customer_id AND stripe_customer_key IS NULL
""")
_FORGET_STRIPE_CUSTOMER = sa.text("""
    UPDATE customers SET stripe_customer_id = NULL, stripe_customer_key = NULL, stripe_customer_request = NULL
    WHERE customer_id = :customer_id AND stripe_customer_key = :key
""")
_DROP_DRAFT = sa.text("""
    UPDATE customers SET stripe_customer_key = NULL, stripe_customer_request = NULL
    WHERE customer_id = :customer_id AND stripe_customer_key = :key AND stripe_customer_id IS NULL
""")
# Whoever was not made here has a key all the same, by which it is forgotten.
_SET_STRIPE_CUSTOMER = sa.text("""
    UPDATE customers
    SET stripe_customer_id = coalesce(stripe_customer_id, :stripe_customer_id),
        stripe_customer_key = coalesce(stripe_customer_key, gen_random_uuid()),
        stripe_customer_request = coalesce(stripe_customer_request, '{}')
    WHERE customer_id = :customer_id AND (stripe_customer_id IS NULL OR stripe_customer_key IS NULL)
""")
_LEAVE_STRIPE_CUSTOMER = sa.text("""
    UPDATE customers SET stripe_customer_id = NULL, stripe_customer_key = NULL, stripe_customer_request = NULL
    WHERE customer_id = :customer_id AND stripe_customer_id = :stripe_customer_id
""")
_CREATE_TIME = sa.text("SELECT create_time FROM customers WHERE customer_id = :customer_id")
# What Stripe is sent to make the customer: once it has answered, nothing is sent again; before that, the address goes alone.
_ERASE = sa.text("""
    UPDATE customers
    SET stripe_customer_request = CASE WHEN stripe_customer_id IS NULL THEN stripe_customer_request - 'email' ELSE '{}' END
    WHERE customer_id = :customer_id AND stripe_customer_request IS NOT NULL AND stripe_customer_request <> '{}'
      AND (stripe_customer_id IS NOT NULL OR stripe_customer_request ? 'email')
""")


def lock(
    connection: Connection, ids: Collection[str], *, new: Collection[str] | None = None
) -> Answer[Mapping[str, CustomerRow]]:
    """Make sure that the rows exist, lock them in the order of ids, and give them. After Stripe customers in the order of locks.

    `new` names those of which a row may be missing, where the others are known to have one.
    """
    perhaps = sorted(ids if new is None else new)
    if perhaps:
        connection.send(_ENSURE, {"ids": perhaps})
    return connection.ask(_LOCK, {"ids": sorted(ids)}, _rows)


def load(connection: Connection, ids: Collection[str]) -> Answer[Mapping[str, CustomerRow]]:
    """Give the customers that exist, by id: one look-up by the primary key each."""
    return connection.ask(_LOAD, {"ids": sorted(ids)}, _rows)


def _rows(result: Result) -> Mapping[str, CustomerRow]:
    return {row.customer_id: _row(row) for row in result}


def save(
    connection: Connection, rows: Sequence[CustomerRow], next_changes: Mapping[str, datetime | None]
) -> Answer[Result]:
    """Write the facts and revisions of locked customers, and when time alone changes what each has next."""
    ordered = sorted(rows, key=lambda row: row.customer_id)
    return connection.send(
        _SAVE,
        {
            "ids": [row.customer_id for row in ordered],
            "revisions": [row.revision for row in ordered],
            "facts": [msgspec.json.encode(row.facts).decode() for row in ordered],
            "next_changes": [next_changes[row.customer_id] for row in ordered],
        },
    )


class Due(NamedTuple):
    """Customers of whom time alone has changed what they have, and since when; and who of them is not understood."""

    rows: Sequence[tuple[CustomerRow, datetime]]
    not_understood: Sequence[str]


async def due(connection: Connection, now: datetime, most: int, but_for: Collection[str] = ()) -> Due:
    """Lock and give customers who are due but for these, the longest due first.

    Those that others have locked are left out. Those who are only looked at again come after them: they may be everybody.
    """
    connection.send(_IN_ORDER)
    values = {"after": PRICE_RESOLVED, "now": now, "most": most, "but_for": sorted(but_for)}
    found = (await connection.execute(_DUE, values)).all()
    if len(found) < most:
        again = {"after": datetime.min.replace(tzinfo=UTC), "now": PRICE_RESOLVED, "most": most - len(found)}
        found = [*found, *await connection.execute(_DUE, values | again)]
    rows, not_understood = [], []
    for one in found:
        try:
            rows.append((_row(one), one.next_change_time))
        except msgspec.ValidationError:  # of a newer release, which was taken back
            not_understood.append(one.customer_id)
    return Due(rows, not_understood)


async def next_due(connection: Connection, but_for: Collection[str] = ()) -> datetime | None:
    """Say when time alone changes anything next, but for these customers."""
    found: datetime | None = await connection.scalar(_NEXT_DUE, {"but_for": sorted(but_for)})
    return found


async def take_next(connection: Connection, after: str, most: int, left: Collection[str] = ()) -> NextCustomers:
    """Lock the next customers after an id, and those who were left before, but for whom others have locked."""
    row = (await connection.execute(_TAKE_NEXT, {"after": after, "most": most, "left": sorted(left)})).one()
    return NextCustomers(row.last, sorted(row.taken), sorted(row.left_out))


def make_due(
    connection: Connection, ids: Collection[str], now: datetime, price_ids: Collection[str] | None = None
) -> Answer[Result]:
    """Make locked customers due, so that what is kept of them is worked out anew: all of them, or those who hold one of these prices.

    Who is due already stays so since when it was, or what time has changed would not be seen.
    """
    values = {
        "ids": sorted(ids),
        "due": NEVER_LOOKED_AT if price_ids is None else PRICE_RESOLVED,
        "price_ids": None if price_ids is None else sorted(price_ids),
        "now": now,
    }
    return connection.send(_MAKE_DUE, values)


async def page(connection: Connection, ids: Collection[str] | None, after: str, most: int) -> Sequence[CustomerRow]:
    """Give the next customers after an id, in the order of ids; of all, or of those named."""
    values = {"ids": None if ids is None else sorted(ids), "after": after, "most": most}
    return [_row(row) for row in await connection.execute(_PAGE, values)]


def _row(row: sa.Row[Any]) -> CustomerRow:
    return CustomerRow(row.customer_id, row.revision, _decode_facts(row.facts), row.next_change_time)


async def stripe_customer(connection: Connection, customer_id: str) -> StripeCustomerDraft | None:
    """Say how a customer is known to Stripe; None where nothing was prepared yet."""
    row = (await connection.execute(_DRAFT, {"customer_id": customer_id})).one_or_none()
    if row is None or row.stripe_customer_key is None:
        return None
    return StripeCustomerDraft(row.stripe_customer_id, row.stripe_customer_key, row.stripe_customer_request)


async def draft_stripe_customer(
    connection: Connection, customer_id: str, key: UUID, request: Mapping[str, Any]
) -> None:
    """Prepare a Stripe customer for a locked customer that has none."""
    body = msgspec.json.encode(request).decode()
    await connection.execute(_SAVE_DRAFT, {"customer_id": customer_id, "key": key, "request": body})


async def set_stripe_customer(connection: Connection, customer_id: str, stripe_customer_id: str) -> None:
    """Name the Stripe customer that a locked customer buys with, unless one was named meanwhile."""
    values = {"customer_id": customer_id, "stripe_customer_id": stripe_customer_id}
    await connection.execute(_SET_STRIPE_CUSTOMER, values)


async def drop_draft(connection: Connection, customer_id: str, key: UUID) -> None:
    """Drop what was prepared under a key, unless another call has got a Stripe customer by it."""
    await connection.execute(_DROP_DRAFT, {"customer_id": customer_id, "key": key})


async def forget_stripe_customer(connection: Connection, customer_id: str, key: UUID) -> None:
    """Drop what was prepared under a key, and the Stripe customer it made, so that the next purchase makes a new one.

    The binding stays: a dispute may still name the old one.
    """
    await connection.execute(_FORGET_STRIPE_CUSTOMER, {"customer_id": customer_id, "key": key})


async def leave_stripe_customer(connection: Connection, customer_id: str, stripe_customer_id: str) -> None:
    """Have a locked customer not buy with this Stripe customer any more."""
    values = {"customer_id": customer_id, "stripe_customer_id": stripe_customer_id}
    await connection.execute(_LEAVE_STRIPE_CUSTOMER, values)


async def create_time(connection: Connection, customer_id: str) -> datetime | None:
    """Say when a customer was first heard of; None where nothing is known."""
    found: datetime | None = await connection.scalar(_CREATE_TIME, {"customer_id": customer_id})
    return found


async def erase_stripe_request(connection: Connection, customer_id: str) -> bool:
    """Take the personal data out of what a locked customer was made known to Stripe with; say whether there was any."""
    return (await connection.execute(_ERASE, {"customer_id": customer_id})).rowcount > 0
