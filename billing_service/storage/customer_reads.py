"""The hot read: the rows of customers by key, gathered over every caller of the process into one query a turn.

Always fresh: a row is sent for after it was asked for, and nothing is kept. While one query is on its way the next callers
gather, and a query leaves when the event loop has nothing else to do: a busy loop brings callers one at a time, and a query
costs nearly the same for one key as for thirty. A loop that stays busy is given until nobody has come for a while. A caller who
is alone waits for nobody.

It goes over a connection of its own, on libpq itself, because the way through a pool, a transaction and a driver's types costs
several times what the look-up does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from enum import Enum
from math import inf
from time import perf_counter
from typing import Any, Final

import psycopg
import structlog
from psycopg import pq
from psycopg.pq.abc import PGresult

from billing_service import tracing
from billing_service.deadline import remaining_s
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import ConnectionLostError, Database, translated
from billing_service.storage.read_delivery import Make, Read, Then, deliver, fail, row_of
from billing_service.storage.unwritable import UnwritableError

MAX_BATCH: Final = 500  # keys of one query; the rest goes with the next one
WAIT_LIMIT_S: Final = 10.0  # of one caller, or what his deadline leaves
CONNECT_LIMIT_S: Final = 8.0  # to connect and prepare
QUERY_LIMIT_S: Final = 3.0  # a look-up by key takes a millisecond; a connection that is silent for so long is given up
# Only a busy loop ever makes a key wait. It brings a caller each millisecond or two (several where others have the processor,
# too), so whoever waits 20 ms there has company for it, and the callers behind are answered sooner than by queries of two keys.
GATHER_S: Final = 0.02  # the longest that a key waits for company
COMPANY_S: Final = 0.005  # for which a key waits that nobody joins
LOOK_S: Final = 0.001  # until the next look whether a busy loop has become idle; twice as long each time
LONGEST_LOOK_S: Final = (
    0.004  # an idle loop is not to be left waiting: one turn of it may be slow, and be taken for a busy one
)
QUIET_TURN_S: Final = 0.000_03  # a turn of the loop in which something ran takes longer
QUIET_TURNS: Final = 3  # on end: gRPC hands a call over in several turns, with gaps between
GATHER_ENOUGH: Final = 32  # keys for which nobody waits any longer
TRIES: Final = 2  # of one caller's read: the connection may be of a server that was restarted

# The statement's plan is right at every size of the table; left to statistics, it would be another one before the first
# ANALYZE after a large import.
SETTINGS: Final = (
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET plan_cache_mode = force_generic_plan",
)
STATEMENT: Final = (
    "PREPARE customer_rows (text[]) AS"
    " SELECT customer_id, revision, facts::text FROM customers WHERE customer_id = ANY($1)"
)
_NAME: Final = b"customer_rows"
_BINARY: Final = 1
_TEXT_OID: Final = (25).to_bytes(4, "big")

_log = structlog.get_logger(__name__)


class _Stage(Enum):
    """Where the next query is. Every stage but the first has something pending that leads on."""

    IDLE = "nobody waits"
    GATHERING = "a look is due"
    CONNECTING = "a task connects"
    SENT = "the socket, or the watchdog, will tell"


class CustomerReads:
    """Reads customers' rows. To be used from one event loop; the database closes the connection with its own."""

    def __init__(self, database: Database, statement: str = STATEMENT, make: Make | None = None) -> None:
        """Connects at the first read, and prepares the statement there.

        `make` makes of a row what its callers are given. All rows of a query go through it on end, which costs a third of what
        it does when each caller comes to it by himself, with everything else of his call in between: the processor has it at hand.
        """
        self._database = database
        self._statement = statement
        self._make = make
        self._waiting: list[Read] = []
        self._sent: list[Read] = []
        self._stage = _Stage.IDLE
        # By perf_counter, as the loop's own clock has steps.
        self._leave_at = 0.0  # when the next query leaves at the latest
        self._joined_at = 0.0  # the look that saw the last one join
        self._turn_at = 0.0  # the last look
        self._seen = 0  # how many were waiting at that look
        self._quiet = 0  # turns on end in which nothing else ran
        self._pause_s = LOOK_S  # until the next look
        self._look_again: asyncio.Handle | None = None  # the next look
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._socket = -1
        self._connecting: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = inf  # the loop's time at which the first of those who wait has waited for long enough
        self._watchdog: asyncio.TimerHandle | None = None
        self._results: list[PGresult] = []

    async def row(self, customer_id: str, *, limit_s: float = WAIT_LIMIT_S) -> CustomerRow:
        """Give a customer's row as it is committed now; revision 0 and no facts for one that nobody knows.

        Raises:
            DatabaseUnavailableError: it does not answer in time.
            UnwritableError: the id is no text that Postgres can hold.
        """
        row = await self.into(customer_id, limit_s=limit_s)
        if not isinstance(row, CustomerRow):
            raise TypeError("rows are made into something else here: `into` gives that")
        return row

    def into(self, customer_id: str, then: Then | None = None, *, limit_s: float = WAIT_LIMIT_S) -> Awaitable[Any]:
        """Give what `make`, and `then` for this caller alone, make of the row. Raises as `row` does, and what these raise.

        To be awaited at once. It is no coroutine: each of those between a call and its answer costs every call.
        """
        loop = asyncio.get_running_loop()
        read = Read(_key(customer_id), loop.create_future(), loop.time() + remaining_s(limit_s), then)
        self._waiting.append(read)
        if self._stage is _Stage.IDLE:
            self._leave()
        elif self._stage is _Stage.GATHERING and len(self._waiting) >= GATHER_ENOUGH:
            self._send()
        if read.end < self._sweep_at:
            self._sweep(read.end)
        if tracing.is_recording():
            return tracing.awaited("postgresql SELECT customers", read.answer)
        return read.answer

    def _sweep(self, at: float = inf) -> None:
        """Tell those whose time is over; come again when the next one's is. One timer for all: they are cheaper than one each."""
        loop = asyncio.get_running_loop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        now = loop.time()
        for read in (*self._waiting, *self._sent):
            if read.end <= now:
                fail(read, DatabaseUnavailableError())
            elif read.end < at and not read.answer.done():
                at = read.end
        self._sweep_at = at
        self._sweeper = None if at == inf else loop.call_at(at, self._sweep)

    def _leave(self) -> None:
        """Have what gathers sent once the loop has nothing else to do, or the first has waited for `GATHER_S`."""
        self._stage = _Stage.GATHERING
        self._joined_at = perf_counter()
        self._leave_at = self._joined_at + GATHER_S
        self._quiet, self._seen, self._turn_at = 0, 0, 0.0
        self._pause_s = LOOK_S
        self._look_again = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Look, in two turns at least. A turn in which nothing else ran is over in no time; a few of those on end are an idle loop."""
        now = perf_counter()
        is_first = self._turn_at == 0.0
        self._quiet = self._quiet + 1 if now - self._turn_at < QUIET_TURN_S else 0
        self._turn_at = now
        waiting = len(self._waiting)
        if waiting != self._seen:
            self._seen, self._joined_at = waiting, now
        loop = asyncio.get_running_loop()
        if self._quiet >= QUIET_TURNS or now >= self._leave_at or now - self._joined_at >= COMPANY_S:
            self._send()
        elif self._quiet or is_first:
            self._look_again = loop.call_soon(self._look)
        else:  # the loop is busy, and a look in each turn would make it more so
            self._turn_at = 0.0
            soonest = min(self._pause_s, self._leave_at - now, self._joined_at + COMPANY_S - now)
            self._look_again = loop.call_later(soonest, self._look)
            self._pause_s = min(2 * self._pause_s, LONGEST_LOOK_S)

    def _send(self) -> None:
        """Send what has gathered; nobody waits for it any more where all were cancelled."""
        if self._look_again is not None:
            self._look_again.cancel()
        batch = [read for read in self._waiting if not read.answer.done()]
        self._waiting, self._sent = batch[MAX_BATCH:], batch[:MAX_BATCH]
        if not batch:
            self._stage = _Stage.IDLE
            return
        connection = self._connection
        if connection is None:
            self._stage = _Stage.CONNECTING
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), context=Context())
            return
        self._stage = _Stage.SENT
        keys = list({read.key for read in self._sent})
        self._watchdog = asyncio.get_running_loop().call_later(QUERY_LIMIT_S, self._lost, ConnectionLostError())
        try:
            connection.pgconn.send_query_prepared(_NAME, [_array(keys)], [_BINARY], _BINARY)
            self._flush()
        except Exception as error:  # noqa: BLE001 - as in `_resume`
            self._lost(translated(error))

    def _flush(self) -> None:
        """Write what libpq still holds, again whenever the socket takes more (a large batch, a slow server)."""
        connection = self._connection
        if connection is None:
            return
        loop, unsent = asyncio.get_running_loop(), connection.pgconn.flush()
        if unsent:
            loop.add_writer(self._socket, self._resume, self._flush)
        else:
            loop.remove_writer(self._socket)

    def _resume(self, step: Callable[[], None]) -> None:
        """Take a step that the socket calls for. A defect is the callers' to hear of too: nobody else would."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - see above
            self._lost(translated(error))

    def _receive(self) -> None:
        """Take what the socket has; once the query is answered, answer its callers and send the next."""
        connection = self._connection
        if connection is None:
            return
        pgconn = connection.pgconn
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                self._answer()
                return
            self._results.append(result)

    def _answer(self) -> None:
        if self._stage is not _Stage.SENT:
            self._results.clear()
            return  # a notice between queries
        if self._watchdog is not None:
            self._watchdog.cancel()
        results, self._results = self._results, []
        result = results[-1]
        if result.status == pq.ExecStatus.TUPLES_OK:
            self._deliver(self._sent, result)
        else:
            error = translated(psycopg.errors.error_from_result(result))
            if isinstance(error, ConnectionLostError):
                self._lost(error)
                return
            for read in self._sent:
                fail(read, error)
        self._sent = []  # not before: whoever is left where a defect ends this asks again, and is not forgotten
        self._next()

    def _deliver(self, sent: Sequence[Read], result: PGresult) -> None:
        deliver(sent, result, row_of, self._make)

    def _next(self) -> None:
        if self._waiting:
            self._leave()
        else:
            self._stage = _Stage.IDLE

    def _lost(self, error: Exception) -> None:
        """Give the connection up; whoever has a try left goes with the next one."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            # By its number: libpq may have closed the socket, and the next connection gets the same number.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
            connection.pgconn.finish()
        self._results.clear()
        sent: list[Read] = []
        if self._stage is _Stage.SENT:  # else what gathers goes with the next connection
            sent, self._sent = self._sent, []
            for read in sent:
                read.tries += 1
                if read.tries >= TRIES:
                    fail(read, error)
            self._waiting = [read for read in sent if read.tries < TRIES] + self._waiting
            self._next()
        if connection is not None:
            _log.warning("hot_read_connection_lost", reads=len(sent))

    async def _connect(self) -> None:
        """Connect and prepare, then send what has gathered. Whoever waited meanwhile is told where that fails."""
        connection = None
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                connection = await self._database.connect()
                for setting in SETTINGS:
                    await connection.execute(setting)
                await connection.execute(self._statement)
            self._socket = connection.pgconn.socket
            asyncio.get_running_loop().add_reader(self._socket, self._resume, self._receive)
        except Exception as error:  # noqa: BLE001 - it is the callers' to hear of, whatever it is; this task has none
            if connection is not None:
                connection.pgconn.finish()  # one that cannot be used for this is of no use at all
            waiting, self._waiting, self._sent = [*self._sent, *self._waiting], [], []
            self._stage = _Stage.IDLE
            for read in waiting:
                fail(read, translated(error))
            return
        self._connection = connection
        self._waiting, self._sent = [*self._sent, *self._waiting], []
        self._send()


def _key(customer_id: str) -> bytes:
    """Encode a key by itself, so that one that Postgres refuses does not spoil the query of its neighbours."""
    try:
        key = customer_id.encode()
    except UnicodeEncodeError:
        raise UnwritableError("text that is not Unicode") from None
    if b"\0" in key:
        raise UnwritableError("a text with a NUL character")
    return key


def _array(keys: Sequence[bytes]) -> bytes:
    """Give a text[] in Postgres's binary format: dimensions, no nulls, element type, length, lower bound, elements."""
    parts = [b"\0\0\0\1\0\0\0\0", _TEXT_OID, len(keys).to_bytes(4, "big"), b"\0\0\0\1"]
    for key in keys:
        parts += (len(key).to_bytes(4, "big"), key)
    return b"".join(parts)
