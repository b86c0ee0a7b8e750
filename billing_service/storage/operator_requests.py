"""What operators asked for: by request id, with who and why, and what a repetition is answered with. Nothing is ever deleted."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from billing_service.domain.operator import Order
from billing_service.storage.database import Connection


@dataclass(frozen=True)
class StoredAnswer:
    """A request id that was used: for what, and the answer, as JSON."""

    fingerprint: bytes
    answer: str


# Waits for another transaction that has the same id: the first of the locks.
_CLAIM = sa.text("""
    INSERT INTO operator_requests (request_id, operation, fingerprint, actor, identity, reason, customer_id, answer)
    VALUES (:request_id, :operation, :fingerprint, :actor, :identity, :reason, :customer_id, CAST(:answer AS jsonb))
    ON CONFLICT (request_id) DO NOTHING
    RETURNING 1
""")
_FIND = sa.text("SELECT fingerprint, answer::text AS answer FROM operator_requests WHERE request_id = :request_id")
_ANSWER = sa.text("UPDATE operator_requests SET answer = CAST(:answer AS jsonb) WHERE request_id = :request_id")
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
    operation: str,
    fingerprint: bytes,
    customer_id: str | None,
    answer: str = "{}",
) -> bool:
    """Take a request id; say False where it was used before. First in the order of locks."""
    values = {"operation": operation, "fingerprint": fingerprint, "customer_id": customer_id, "answer": answer}
    return (await connection.execute(_CLAIM, vars(order) | values)).one_or_none() is not None


async def find(connection: Connection, request_id: str) -> StoredAnswer | None:
    """Give what a request id was used for, or None."""
    row = (await connection.execute(_FIND, {"request_id": request_id})).one_or_none()
    return None if row is None else StoredAnswer(bytes(row.fingerprint), row.answer)


async def answer(connection: Connection, request_id: str, answer: str) -> None:
    """Write the answer of a request that this transaction has claimed."""
    await connection.execute(_ANSWER, {"request_id": request_id, "answer": answer})


async def erase_reasons(connection: Connection, customer_id: str, most: int) -> int:
    """Empty the reasons of what was asked about a customer; say of how many, `most` at most. What another erasing is at is left to it."""
    return (await connection.execute(_ERASE_OF, {"customer_id": customer_id, "most": most})).rowcount


async def erase_reasons_of_nobody(connection: Connection, most: int) -> int:
    """The same for what was asked about nobody in particular: nothing tells whom such a reason names."""
    return (await connection.execute(_ERASE_OF_NOBODY, {"most": most})).rowcount
