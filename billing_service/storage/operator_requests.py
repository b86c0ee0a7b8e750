"""What operators asked for: by request id, with who and why, and what a repetition is answered with. Nothing is ever deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from billing_service.domain.operator import Operation, Order
from billing_service.storage.database import Connection


@dataclass(frozen=True)
class StoredAnswer:
    """A request id that was used: for what, and the answer, as JSON."""

    fingerprint: bytes
    answer: str


@dataclass(frozen=True)
class RecordedRequest:
    """What an operator did."""

    order: Order
    operation: Operation | None  # None: one that a newer release wrote
    customer_id: str | None
    result: Mapping[str, Any]  # ids and numbers
    create_time: datetime


@dataclass(frozen=True)
class Filter:
    """Which requests are listed; what is None leaves all of them."""

    customer_id: str | None = None
    actor: str | None = None
    identity: str | None = None
    operation: Operation | None = None
    start: datetime | None = None
    end: datetime | None = None


Place = tuple[datetime, str]  # when a request was carried out, and its id

# Waits for another transaction that has the same id: the first of the locks.
_CLAIM = sa.text("""
    INSERT INTO operator_requests (request_id, operation, fingerprint, actor, identity, reason, customer_id, answer)
    VALUES (:request_id, :operation, :fingerprint, :actor, :identity, :reason, :customer_id, CAST(:answer AS jsonb))
    ON CONFLICT (request_id) DO NOTHING
    RETURNING 1
""")
_FIND = sa.text("SELECT fingerprint, answer::text AS answer FROM operator_requests WHERE request_id = :request_id")
_ANSWER = sa.text("UPDATE operator_requests SET answer = CAST(:answer AS jsonb) WHERE request_id = :request_id")
# Along the index by time. What is filtered out is passed over: people wrote it, and a table of them is read through in no time.
_PAGE = sa.text("""
    SELECT request_id, operation, actor, identity, reason, customer_id, answer::text AS answer, create_time
    FROM operator_requests
    WHERE (CAST(:customer_id AS text) IS NULL OR customer_id = :customer_id)
      AND (CAST(:actor AS text) IS NULL OR actor = :actor)
      AND (CAST(:identity AS text) IS NULL OR identity = :identity)
      AND (CAST(:operation AS text) IS NULL OR operation = :operation)
      AND (CAST(:start AS timestamptz) IS NULL OR create_time >= :start)
      AND (CAST(:end AS timestamptz) IS NULL OR create_time < :end)
      AND (CAST(:before AS timestamptz) IS NULL
           OR (create_time, request_id) < (:before, CAST(:before_id AS text) COLLATE "C"))
    ORDER BY create_time DESC, request_id DESC LIMIT :most
""")
# Without the reason there is no fingerprint either, because a reason can be guessed from it; a repetition is refused then. An older release
# kept a copy of the finding as the answer: what names it is left.
_ERASE = """
    UPDATE operator_requests
    SET reason = '', fingerprint = '',
        answer = CASE operation WHEN 'close_finding'
                 THEN jsonb_build_object('kind', answer -> 'kind', 'subject', answer -> 'subject') ELSE answer END
    WHERE request_id IN (
        SELECT request_id FROM operator_requests WHERE {} AND reason <> ''
        ORDER BY request_id LIMIT :most FOR UPDATE SKIP LOCKED)
"""
# Why somebody was erased stays: it is what shows that it was asked for.
_ERASE_OF = sa.text(_ERASE.format("customer_id = :customer_id AND operation <> 'erase_customer'"))
_ERASE_OF_NOBODY = sa.text(_ERASE.format("customer_id IS NULL"))


async def claim(
    connection: Connection,
    order: Order,
    operation: Operation,
    fingerprint: bytes,
    customer_id: str | None,
    answer: str = "{}",
) -> bool:
    """Take a request id; say False where it was used before. First in the order of locks."""
    values = {"operation": operation.value, "fingerprint": fingerprint, "customer_id": customer_id, "answer": answer}
    return (await connection.execute(_CLAIM, vars(order) | values)).one_or_none() is not None


async def find(connection: Connection, request_id: str) -> StoredAnswer | None:
    """Give what a request id was used for, or None."""
    row = (await connection.execute(_FIND, {"request_id": request_id})).one_or_none()
    return None if row is None else StoredAnswer(bytes(row.fingerprint), row.answer)


async def answer(connection: Connection, request_id: str, answer: str) -> None:
    """Write the answer of a request that this transaction has claimed."""
    await connection.execute(_ANSWER, {"request_id": request_id, "answer": answer})


async def page(connection: Connection, chosen: Filter, before: Place | None, most: int) -> Sequence[RecordedRequest]:
    """Give the next requests before a place, the last first."""
    time, request_id = before or (None, None)
    kind = None if chosen.operation is None else chosen.operation.value
    values = vars(chosen) | {"operation": kind, "before": time, "before_id": request_id, "most": most}
    return [_recorded(row) for row in await connection.execute(_PAGE, values)]


async def erase_reasons(connection: Connection, customer_id: str, most: int) -> int:
    """Empty the reasons of what was asked about a customer; say of how many, `most` at most. What another erasing is at is left to it."""
    return (await connection.execute(_ERASE_OF, {"customer_id": customer_id, "most": most})).rowcount


async def erase_reasons_of_nobody(connection: Connection, most: int) -> int:
    """The same for what was asked about nobody in particular: nothing tells whom such a reason names."""
    return (await connection.execute(_ERASE_OF_NOBODY, {"most": most})).rowcount


_OPERATIONS = {one.value: one for one in Operation}


def _recorded(row: sa.Row[Any]) -> RecordedRequest:
    return RecordedRequest(
        order=Order(row.request_id, row.actor, row.reason, row.identity),
        operation=_OPERATIONS.get(row.operation),
        customer_id=row.customer_id,
        result=msgspec.json.decode(row.answer),
        create_time=row.create_time,
    )
