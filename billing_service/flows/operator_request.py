"""A request of an operator: carried out once per request id, with who asked and why kept beside the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from billing_service.domain.errors import RequestIdReusedError
from billing_service.domain.operator import Operation, Order
from billing_service.storage import operator_requests
from billing_service.storage.database import Connection
from billing_service.storage.operator_requests import StoredAnswer

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Asked:
    """One request: who and why, what is to be done, and what with. `parameters` are values that JSON can say."""

    order: Order
    operation: Operation
    parameters: object
    customer_id: str | None = None

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal for two requests exactly when they ask for the same thing for the same reason."""
        asked = [self.operation, self.order.actor, self.order.reason, self.parameters]
        return hashlib.sha256(msgspec.json.encode(asked)).digest()


async def once(
    connection: Connection, asked: Asked, kind: type[_Answer], work: Callable[[], Awaitable[_Answer]]
) -> _Answer:
    """Do the work in this transaction, and keep its answer; where it was done before, give that answer.

    Raises:
        RequestIdReusedError: the id was used for something else.
    """
    if not await operator_requests.claim(
        connection, asked.order, asked.operation, asked.fingerprint, asked.customer_id
    ):
        return _answer(await operator_requests.find(connection, asked.order.request_id), asked, kind)
    answer = await work()
    await operator_requests.answer(connection, asked.order.request_id, msgspec.json.encode(answer).decode())
    return answer


async def answered(connection: Connection, asked: Asked, kind: type[_Answer]) -> _Answer | None:
    """Give the answer of a request that was carried out before, or None. Raises as `once` does."""
    stored = await operator_requests.find(connection, asked.order.request_id)
    return None if stored is None else _answer(stored, asked, kind)


async def keep(connection: Connection, asked: Asked, answer: _Answer) -> _Answer:
    """Keep the answer of work that no transaction could hold; another call that was quicker has the say. Raises as `once` does."""
    body = msgspec.json.encode(answer).decode()
    fingerprint, customer_id = asked.fingerprint, asked.customer_id
    if await operator_requests.claim(connection, asked.order, asked.operation, fingerprint, customer_id, body):
        return answer
    return _answer(await operator_requests.find(connection, asked.order.request_id), asked, type(answer))


def _answer(stored: StoredAnswer | None, asked: Asked, kind: type[_Answer]) -> _Answer:
    if stored is None:
        raise LookupError("a request id that is taken is not there")
    if stored.fingerprint != asked.fingerprint:
        raise RequestIdReusedError
    return msgspec.json.decode(stored.answer, type=kind)
