"""What comes of a query for many callers' customers: each caller is given the row of its key, and what is made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from psycopg.pq.abc import PGresult

from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.storage.customers import CustomerRow

Make = Callable[[CustomerRow], Any]
Then = Callable[[Any], Any]


_decode_facts: Final = msgspec.json.Decoder(CustomerFacts).decode


class Read:
    """One caller's wish: a key, where the answer goes, until when it is of use (the loop's time), and what it is to become."""

    __slots__ = ("answer", "end", "key", "then", "tries")

    def __init__(self, key: bytes, answer: asyncio.Future[Any], end: float, then: Then | None = None) -> None:
        self.key = key
        self.then = then
        self.answer = answer
        self.end = end
        self.tries = 0


def deliver(
    sent: Sequence[Read],
    result: PGresult,
    row_of: Callable[[bytes, PGresult, int | None], Any],
    make: Make | None = None,
) -> None:
    """Give each caller the row of its key, made once for all who ask for it.

    A step at a time for all of them: rows, what is made of these, what callers make of that. What fails for one is told to that one.
    """
    found = {result.get_value(index, 0): index for index in range(result.ntuples)}
    waiting = [read for read in sent if not read.answer.done()]
    made = {key: _tried(row_of, key, result, found.get(key)) for key in {read.key for read in waiting}}
    if make is not None:
        made = {key: row if isinstance(row, Exception) else _tried(make, row) for key, row in made.items()}
    answers = [(read, made[read.key]) for read in waiting]
    answers = [
        (read, answer if read.then is None or isinstance(answer, Exception) else _tried(read.then, answer))
        for read, answer in answers
    ]
    for read, answer in answers:
        if isinstance(answer, Exception):
            fail(read, answer)
        elif not read.answer.done():
            read.answer.set_result(answer)


def _tried(step: Callable[..., Any], *given: Any) -> Any:
    """Take a step, or give what went wrong: what cannot be read of one customer is no trouble of the others."""
    try:
        return step(*given)
    except Exception as error:  # noqa: BLE001 - see above
        return error


def row_of(key: bytes, result: PGresult, index: int | None) -> CustomerRow:
    """Read a row of the answer; that of somebody whom nobody knows where there is none."""
    if index is None:
        return CustomerRow(key.decode(), 0, NO_FACTS)
    revision, facts = result.get_value(index, 1), result.get_value(index, 2)
    if revision is None or facts is None:
        raise TypeError("the columns are NOT NULL")
    known = NO_FACTS if facts == b"{}" else _decode_facts(facts)
    return CustomerRow(key.decode(), int.from_bytes(revision, "big"), known)


def fail(read: Read, error: Exception) -> None:
    """Tell a caller what went wrong, unless it has gone or has its answer."""
    if not read.answer.done():
        read.answer.set_exception(error)
