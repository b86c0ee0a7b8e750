"""The hot read on a replica: the same rows, and in the same snapshot the latest beat of this process that the replica has.

A beat is a number that this process committed on the primary, at a moment that it knows. A snapshot that has it has everything
that was committed before that moment, because a replica makes commits visible in the primary's order. So how old an answer may be
is known from the answer itself, by one clock, whatever server is behind the address, and however that got what it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from time import monotonic
from typing import Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.domain.frozen import frozen
from billing_service.storage.customer_reads import CustomerReads
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Database
from billing_service.storage.read_delivery import Read, deliver, fail, row_of

MAX_BEATS: Final = 64  # that are remembered; four fill the time for which one is of use
ANSWER_LIMIT_S: Final = 0.25  # a look-up by key takes a millisecond, and the primary is there

_STATEMENT: Final = (
    "PREPARE customer_rows (text[]) AS"
    " SELECT customer_id, revision, facts::text FROM customers WHERE customer_id = ANY($1)"
    " UNION ALL SELECT NULL, beat, NULL FROM replica_beats WHERE writer = '{writer}'"
)


SPARE: Final = 0.05  # of the age that is allowed: an answer is told a little after it was looked at


class StaleReplicaError(DatabaseUnavailableError):
    """The replica is further behind than it may be; the primary knows more."""


@frozen
class ReplicaRow(CustomerRow):
    """A customer's row, and the most seconds that may have passed since the primary had nothing else."""

    age_s: float = inf  # of what nobody can tell the age


class ReplicaReads(CustomerReads):
    """Reads customers' rows from a replica, and refuses those that are too old."""

    def __init__(self, replica: Database, writer: UUID, most_age_s: float) -> None:
        """Take the replica, whose beats to look for, and how old a row may be. Connects at the first read."""
        super().__init__(replica, _STATEMENT.format(writer=writer))  # a UUID is nothing but digits and dashes
        self._most_age_s = most_age_s
        self._beats: deque[tuple[int, float]] = deque(maxlen=MAX_BEATS)
        self._seen_at = -inf  # the time, of `monotonic`, before which everything that was committed was seen

    def begun(self, beat: int) -> None:
        """Remember when a beat was begun; to be told before it is written."""
        self._beats.append((beat, monotonic()))

    @property
    def age_s(self) -> float:
        """How old the latest answer would be by now, at most; infinite before the first one."""
        return monotonic() - self._seen_at

    async def row(self, customer_id: str, *, limit_s: float = ANSWER_LIMIT_S) -> ReplicaRow:
        """Give a customer's row as the replica has it.

        Raises:
            StaleReplicaError: it is too old, or how old it is cannot be told.
            DatabaseUnavailableError: the replica does not answer in time.
            UnwritableError: the id is no text that Postgres can hold.
        """
        row = await super().row(customer_id, limit_s=limit_s)
        if not isinstance(row, ReplicaRow):
            raise TypeError("`_deliver` makes no other rows")
        return row

    def _deliver(self, sent: Sequence[Read], result: PGresult) -> None:
        age_s = self._age(result)
        if age_s > self._most_age_s * (1 - SPARE):
            for read in sent:
                fail(read, StaleReplicaError())
            return

        def row(key: bytes, result: PGresult, index: int | None) -> ReplicaRow:
            known = row_of(key, result, index)
            return ReplicaRow(known.customer_id, known.revision, known.facts, age_s=age_s)

        deliver(sent, result, row)

    def _age(self, result: PGresult) -> float:
        """Say how many seconds ago the beat of this answer was begun; infinite for none, or one that is forgotten."""
        found = next((i for i in range(result.ntuples) if result.get_value(i, 0) is None), None)
        value = None if found is None else result.get_value(found, 1)
        number = 0 if value is None else int.from_bytes(value, "big")
        begun_at = next((at for beat, at in self._beats if beat == number), -inf)
        self._seen_at = max(self._seen_at, begun_at)
        return monotonic() - begun_at
