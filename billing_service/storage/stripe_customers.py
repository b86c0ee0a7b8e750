"""Which customer of ours a Stripe customer is: this table is the authority.

A row without a customer parks what came before its customer was known. Binding and parking both go through the locked
row, or an object could be parked for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection


@dataclass(frozen=True)
class Binding:
    """A Stripe customer that is bound to a customer; `current` where it is the one with which they buy."""

    stripe_customer_id: str
    bind_time: datetime
    current: bool


_ENSURE = sa.text("""
    INSERT INTO stripe_customers (stripe_customer_id)
    SELECT id FROM unnest(CAST(:ids AS text[])) AS id ORDER BY id COLLATE "C"
    ON CONFLICT (stripe_customer_id) DO NOTHING
""")
# Whoever waited for a row is given it as it is then: PostgreSQL takes the version that it has locked.
_LOCK = sa.text("""
    SELECT stripe_customer_id, customer_id FROM stripe_customers WHERE stripe_customer_id = ANY(CAST(:ids AS text[]))
    ORDER BY stripe_customer_id FOR NO KEY UPDATE
""")
_OF_CUSTOMERS = sa.text("""
    SELECT stripe_customer_id, customer_id FROM stripe_customers
    WHERE customer_id = ANY(CAST(:customers AS text[]))
""")
_BIND = sa.text("""
    UPDATE stripe_customers AS s SET customer_id = b.customer_id, bind_time = now()
    FROM unnest(CAST(:ids AS text[]), CAST(:customers AS text[])) AS b (id, customer_id)
    WHERE s.stripe_customer_id = b.id AND s.customer_id IS NULL
""")
_REBIND = sa.text("""
    UPDATE stripe_customers SET customer_id = :customer_id, bind_time = now()
    WHERE stripe_customer_id = :stripe_customer_id AND customer_id IS DISTINCT FROM :customer_id
""")
_BINDINGS = sa.text("""
    SELECT s.stripe_customer_id, s.bind_time, s.stripe_customer_id IS NOT DISTINCT FROM c.stripe_customer_id AS current
    FROM stripe_customers AS s JOIN customers AS c ON c.customer_id = s.customer_id
    WHERE s.customer_id = :customer_id ORDER BY s.bind_time DESC, s.stripe_customer_id DESC LIMIT :most
""")
MOST_BINDINGS = 1_000  # that are shown of one customer


def lock(connection: Connection, ids: Collection[str]) -> Answer[Mapping[str, str | None]]:
    """Make sure that the rows exist, lock them, and give the customer of each, as `lock_known` does."""
    connection.send(_ENSURE, {"ids": sorted(ids)})
    return lock_known(connection, ids)


def lock_known(connection: Connection, ids: Collection[str]) -> Answer[Mapping[str, str | None]]:
    """Lock the rows that there are, in the order of ids, and give the customer of each, None where it is not bound.

    After objects and anchors in the order of locks.
    """
    return connection.ask(_LOCK, {"ids": sorted(ids)}, _owners)


def bind(connection: Connection, bindings: Mapping[str, str]) -> Answer[Result]:
    """Bind locked rows to locked customers (Stripe's id -> ours); one that is bound already stays as it is."""
    pairs = sorted(bindings.items())
    return connection.send(_BIND, {"ids": [pair[0] for pair in pairs], "customers": [pair[1] for pair in pairs]})


def rebind(connection: Connection, stripe_customer_id: str, customer_id: str) -> Answer[Result]:
    """Bind a locked row to a locked customer, whoever it was bound to."""
    return connection.send(_REBIND, {"stripe_customer_id": stripe_customer_id, "customer_id": customer_id})


async def bindings(connection: Connection, customer_id: str) -> Sequence[Binding]:
    """Give the Stripe customers of a customer, in the order in which they were bound; the last ones where there are many."""
    result = await connection.execute(_BINDINGS, {"customer_id": customer_id, "most": MOST_BINDINGS})
    return [Binding(row.stripe_customer_id, row.bind_time, row.current) for row in result][::-1]


def of_customers(connection: Connection, customer_ids: Collection[str]) -> Answer[Mapping[str, str]]:
    """Give every Stripe customer that is bound to these customers, old bindings too."""
    return connection.ask(_OF_CUSTOMERS, {"customers": sorted(customer_ids)}, _owners)


def _owners(result: Result) -> dict[str, Any]:
    return {row.stripe_customer_id: row.customer_id for row in result}
