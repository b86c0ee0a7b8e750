"""A connection on which statements leave without waiting for the answers of those before them.

`send` puts a statement on its way at once and gives its answer to be awaited, or not: PostgreSQL runs statements in the order in
which they were sent, each with a snapshot of its own, and the first that fails stops those behind it. So what does not depend
on an answer needs no round trip of its own: a lock and the load that follows it are sent together. `execute` sends and waits.

It drives libpq's pipeline mode itself: through a driver's cursors a statement costs five times as much of our own time.
https://www.postgresql.org/docs/18/libpq-pipeline-mode.html
"""

from __future__ import annotations

import asyncio
from collections import deque, namedtuple
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import abc, pq
from psycopg.adapt import Transformer

from billing_service import tracing
from billing_service.storage.parameters import TEXT, Prepared, encoded, prepared

_Value = TypeVar("_Value")
_BEGIN: Final = sa.text("BEGIN")
_COMMIT: Final = sa.text("COMMIT")
_ROLLBACK: Final = sa.text("ROLLBACK")
_FAILED: Final = frozenset({pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE, pq.ExecStatus.NONFATAL_ERROR})


class Result:
    """A statement's rows, each a named tuple, and the number of rows that it wrote."""

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        """Take both."""
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        """Give every row."""
        return self._rows

    def one_or_none(self) -> Any:
        """Give the row, or None where there is none.

        Raises:
            LookupError: there are several.
        """
        if len(self._rows) > 1:
            raise LookupError("more rows than one")
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """Give the row.

        Raises:
            LookupError: there is none, or there are several.
        """
        row = self.one_or_none()
        if row is None:
            raise LookupError("no row")
        return row

    def scalar_one(self) -> Any:
        """Give the first value of the row. Raises as `one` does."""
        return self.one()[0]


class Answer(Generic[_Value]):
    """What a statement that was sent will be answered with. Awaiting it waits for everything that was sent before, too.

    Nobody need await it: a failure is heard of by whoever awaits a later one, and by the commit.
    """

    __slots__ = ("_connection", "_make", "error", "result", "statement")

    def __init__(self, connection: Connection, make: Callable[[Result], _Value], statement: Prepared) -> None:
        self._connection = connection
        self.statement = statement
        self._make = make
        self.result: pq.abc.PGresult | None = None
        self.error: BaseException | None = None

    def __await__(self) -> Generator[Any, None, _Value]:
        if self.result is None and self.error is None:
            yield from self._connection.settle().__await__()
        if self.error is not None:
            raise self.error
        if self.result is None:
            raise psycopg.InternalError("a statement was settled without an answer")
        return self._make(self._connection.read(self.statement, self.result))


class Connection:
    """One connection, used by one task at a time, in one transaction at a time."""

    def __init__(self, raw: psycopg.AsyncConnection[Any]) -> None:
        """Take an open connection that does nothing. Needs the running event loop."""
        self._raw = raw
        self._pgconn = raw.pgconn
        self._socket = raw.pgconn.socket  # libpq forgets it when the connection is lost; the event loop must not
        self._loop = asyncio.get_running_loop()
        self._prepared: set[bytes] = set()  # bounded by the statements of the program
        self._readers: dict[bytes, tuple[abc.Transformer, Any]] = {}  # likewise: what makes rows of the results of each
        self._sent: deque[Answer[Any] | bytes] = deque()  # bytes: the name of what is to be prepared
        self._results: list[pq.abc.PGresult] = []  # of the statement that is being answered
        self._failure: BaseException | None = None  # of the first that failed since the last settling
        self._ended_by: BaseException | None = None  # the first failure of the transaction, until another one begins
        self._settled: asyncio.Future[None] | None = None
        self._is_closed = False
        self._pgconn.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._on_readable)

    # --- What storage uses -------------------------------------------------------------------------------------------

    def send(self, statement: sa.TextClause, values: Mapping[str, Any] | None = None) -> Answer[Result]:
        """Put a statement on its way. Raises as `ask` does."""
        return self.ask(statement, values, _as_it_is)

    def ask(
        self, statement: sa.TextClause, values: Mapping[str, Any] | None, make: Callable[[Result], _Value]
    ) -> Answer[_Value]:
        """Put a statement on its way, of whose result `make` makes the answer.

        Raises:
            psycopg.DataError, UnicodeEncodeError: a value cannot be written; nothing was sent.
            psycopg.OperationalError: the connection is lost.
        """
        ready = prepared(statement.text)
        data, kinds = encoded(ready, values)
        try:
            if ready.name not in self._prepared:
                self._pgconn.send_prepare(ready.name, ready.sql)
                self._prepared.add(ready.name)
                self._sent.append(ready.name)
            self._pgconn.send_query_prepared(ready.name, data, kinds, TEXT)
        except psycopg.Error as error:
            self._lose(error)  # at once: libpq may have closed the socket, and the next one opened has its number
            raise
        answer = Answer(self, make, ready)
        self._sent.append(answer)
        return answer

    def push(self) -> None:
        """Have PostgreSQL begin with what was sent while we go on; without this it leaves with the next wait."""
        self._flush()

    async def execute(self, statement: sa.TextClause, values: Mapping[str, Any] | None = None) -> Result:
        """Send a statement and wait for its answer. Raises what the driver raises."""
        return await self.send(statement, values)

    async def scalar(self, statement: sa.TextClause, values: Mapping[str, Any] | None = None) -> Any:
        """Give the first value of the only row; None where there is no row."""
        row = (await self.send(statement, values)).one_or_none()
        return None if row is None else row[0]

    # --- What the pool uses ------------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether another transaction may begin on it."""
        return not self._is_closed and not self._sent and self._failure is None

    def begin(self) -> None:
        """Begin a transaction; it leaves together with the first statement."""
        self._ended_by = None
        self.send(_BEGIN)

    async def commit(self) -> None:
        """Commit, and hear of what failed before although nobody awaited it. Raises what the driver raises."""
        answer = self.send(_COMMIT)
        await self._settle_all()
        # PostgreSQL answers the COMMIT of a transaction in which something failed with "ROLLBACK", and without an error.
        if answer.result is None or answer.result.command_status != b"COMMIT":
            raise self._ended_by or psycopg.InternalError("the transaction was not committed")

    async def rollback(self) -> None:
        """Undo the transaction, whatever state it is in. Raises where that was not done."""
        await self.settle()
        await self.send(_ROLLBACK)

    def finish(self) -> None:
        """Close it at once; the server notices within `client_connection_check_interval`. Twice is fine."""
        self._lose(psycopg.OperationalError("the connection was given up"))

    async def settle(self) -> None:
        """Wait until everything that was sent is answered. When cancelled in the middle, close the connection and go:
        asking a server that hangs to cancel takes longer than any deadline of ours.

        Raises:
            RuntimeError: another task waits already.
        """
        if self._settled is not None:
            raise RuntimeError("a connection is used by one task at a time")
        # After a failure PostgreSQL passes over everything until it is told to synchronise, though no answer may be left to come.
        if not self._sent and self._failure is None:
            return
        span = _round_trip(self._sent) if tracing.is_recording() else None
        settled = self._settled = self._loop.create_future()
        try:
            self._pgconn.pipeline_sync()
            self._flush()
            await settled
        except asyncio.CancelledError:
            self._lose(psycopg.OperationalError("the wait was given up"))
            raise
        except psycopg.Error as error:
            self._lose(error)
        finally:
            tracing.end(span, None if self._failure is None else type(self._failure).__name__)
            self._settled = self._failure = None

    def read(self, statement: Prepared, result: pq.abc.PGresult) -> Result:
        """Make rows of a statement's result. Its columns stay as they are for as long as it is prepared."""
        if result.status != pq.ExecStatus.TUPLES_OK:
            return Result((), result.command_tuples or 0)
        if not result.ntuples:
            return Result([], 0)
        reader = self._readers.get(statement.name)
        if reader is None:
            reader = self._readers[statement.name] = Transformer(self._raw), _row_maker(result)
            reader[0].set_pgresult(result)
        loader, make = reader
        loader.set_pgresult(result, set_loaders=False)
        rows = loader.load_rows(0, result.ntuples, make)
        loader.set_pgresult(None, set_loaders=False)
        return Result(rows, len(rows))

    async def _settle_all(self) -> None:
        sent = [answer for answer in self._sent if isinstance(answer, Answer)]
        await self.settle()
        for answer in sent:
            if answer.error is not None:
                raise answer.error

    # --- Between the socket and libpq --------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what libpq holds; the rest when the socket takes more. What comes meanwhile is read: neither side may block."""
        try:
            unsent = self._pgconn.flush()
        except psycopg.Error as error:
            self._lose(error)
            return
        if unsent:
            self._loop.add_writer(self._socket, self._on_writable)

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._socket)
        self._flush()

    def _on_readable(self) -> None:
        try:
            self._pgconn.consume_input()
            while (self._sent or self._settled) and not self._pgconn.is_busy():
                if not self._take(self._pgconn.get_result()):
                    break
        except psycopg.Error as error:
            self._lose(error)
        else:
            if self._pgconn.status != pq.ConnStatus.OK:
                self._lose(psycopg.OperationalError("the connection is lost"))

    def _take(self, result: pq.abc.PGresult | None) -> bool:
        """Take what libpq gives next; say whether there may be more. A statement's answer ends with a None."""
        if result is None:
            if not self._results:
                return False
            said = self._results[-1]
            self._results.clear()
            if not self._sent:  # everything was answered: it is what a server says as it ends the connection
                self._lose(psycopg.errors.error_from_result(said))
                return False
            self._answer(said)
        elif result.status == pq.ExecStatus.PIPELINE_SYNC:
            self._wake()
            return False
        else:
            self._results.append(result)
        return True

    def _answer(self, result: pq.abc.PGresult) -> None:
        """Hand a result to whom it is for. After the first failure libpq says of the others only that they were not run."""
        answer = self._sent.popleft()
        if result.status in _FAILED:
            error: BaseException = psycopg.errors.error_from_result(result)
            # What comes after a failure that nobody awaited is refused for that one.
            if isinstance(error, psycopg.errors.InFailedSqlTransaction):
                error = self._ended_by or error
            self._failure = self._failure or error
            self._ended_by = self._ended_by or error
        if isinstance(answer, bytes):
            if self._failure is not None:
                self._prepared.discard(answer)
        elif self._failure is not None:
            answer.error = self._failure
        else:
            answer.result = result

    def _wake(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _lose(self, error: Exception) -> None:
        """Close the connection; whatever was not answered failed with this."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._pgconn.finish()
        for answer in self._sent:
            if isinstance(answer, Answer):
                answer.error = self._failure or error
        self._sent.clear()
        self._wake()


def _round_trip(sent: Iterable[Answer[Any] | bytes]) -> tracing.Span | None:
    said = [answer.statement.summary for answer in sent if isinstance(answer, Answer)]
    about: tracing.Attributes = {
        "db.system.name": "postgresql",
        "db.query.summary": "; ".join(said),
        "db.operation.batch.size": len(said),
    }
    return tracing.begin("postgresql round trip", tracing.SpanKind.CLIENT, attributes=about)


def _as_it_is(result: Result) -> Result:
    return result


def _row_maker(result: pq.abc.PGresult) -> Any:
    """Give what makes a row of a result's columns."""
    return _named_tuple(tuple((result.fname(column) or b"").decode() for column in range(result.nfields)))


@lru_cache(maxsize=1_024)
def _named_tuple(names: tuple[str, ...]) -> Any:
    """Give what makes a row of these columns: a named tuple, by position where a column has no name of its own."""
    kind: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024 - the names are the statement's
    return kind._make
