"""The pool, transactions, and the one place where a driver's errors become ours.

Every wait is bounded by the caller's deadline and by a limit of its own. A transaction that lost to another one
(serialization failure, deadlock) or whose connection was lost is run again, a bounded number of times: what is run here
must be safe to run twice, even if the first run's commit went through unheard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
import structlog
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from billing_service.deadline import remaining_s
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.connection import Connection
from billing_service.storage.unwritable import UnwritableError

__all__ = ["Connection", "Database"]
_Result = TypeVar("_Result")

CONNECT_TIMEOUT_S = 5
POOL_SIZE = 10  # connections a process; Postgres allows 100 in all unless told otherwise
TRANSACTION_LIMIT_S = 10.0
# At which the server ends one, whatever has become of its process: no row is seen later than this.
TRANSACTION_BOUND_S = 50
CONFLICT_TRIES = 5  # 40001 and 40P01: each round at least one transaction gets through
LOST_TRIES = 2  # the pool may hold connections of a server that was restarted
RETRY_PAUSE_S = 0.02
ROLLBACK_LIMIT_S = 1.0
WAIT_INTERVAL_S = 0.1  # psycopg's own: how often a wait looks up

# Every statement here is a handful of look-ups by key. The planner's guesses about arrays and recursion say otherwise, and
# at some size of the tables it would read one whole: so it is told, and one plan per statement and connection is enough.
_BY_KEY = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"

# A server, database or role may have another taste in how values are written; driver and encoding here know this one.
_AS_WE_READ = "-c DateStyle=ISO -c IntervalStyle=postgres"

_CONFLICTS = frozenset({"40001", "40P01"})
# https://www.postgresql.org/docs/18/errcodes-appendix.html: connection, resources, shut down, lock and statement timeouts.
_AWAY_CLASSES = frozenset({"08", "53", "57", "58"})
_AWAY = frozenset({"55P03"})
_READ_ONLY = "25006"
_NO_STATEMENT = "26000"
_NOT_SUPPORTED = "0A000"
# The server closed the connection: shut down, or idle or in a transaction too long.
_ENDED = (
    "08",
    "57P",
    "25P03",
    "25P04",
)

_ASK = sa.text("SELECT 1")

log = structlog.get_logger(__name__)


class ConflictError(DatabaseUnavailableError):
    """Another transaction was in the way; come again."""


class ConnectionLostError(DatabaseUnavailableError):
    """The connection to the database was lost; come again."""


class ReadOnlyError(DatabaseUnavailableError):
    """The connection is to a server that takes no writes: a standby, or what was the primary before a failover."""


class Database:
    """A pool of connections to the database at a libpq URL (several hosts, TLS and the rest as libpq has them)."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        """Connects when first used."""
        self._conninfo = conninfo(url)
        self._own: list[psycopg.AsyncConnection[Any]] = []  # as many as have called `connect`: a handful
        self._size = pool_size
        self._slots = asyncio.Semaphore(pool_size)
        self._is_closed = False
        self._generation = 0  # of the connections: those of an earlier one are not used again
        self._idle: list[
            Connection
        ] = []  # the last used first: its statements are prepared, and it is the least likely stale

    @property
    def in_use(self) -> int:
        """How many of the pool's connections are in use."""
        return self._size - self._slots._value  # noqa: SLF001 - asyncio's semaphore does not say it

    @property
    def size(self) -> int:
        """How many there may be."""
        return self._size

    async def run(
        self, work: Callable[[Connection], Awaitable[_Result]], *, limit_s: float = TRANSACTION_LIMIT_S
    ) -> _Result:
        """Run `work` in one transaction (READ COMMITTED) and commit it; again where that can help.

        Raises:
            DatabaseUnavailableError: it does not answer in time, or others were in the way each time.
            UnwritableError: it refuses the data.
        """
        conflicts = losses = 0
        while True:
            try:
                async with self._transaction(limit_s) as connection:
                    return await work(connection)
            except ConflictError:
                conflicts += 1
                if conflicts >= CONFLICT_TRIES:
                    raise
                log.warning("database_conflict", tries=conflicts)
            except ConnectionLostError:
                losses += 1
                if losses >= LOST_TRIES:
                    raise
            await asyncio.sleep(RETRY_PAUSE_S * (conflicts + losses))

    async def check(self) -> None:
        """Ask the database for an answer.

        Raises:
            DatabaseUnavailableError: there is none.
        """
        await self.run(lambda connection: connection.execute(_ASK))

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open a connection beside the pool, in autocommit, for one that keeps it. It is closed with the pool.

        Raises:
            DatabaseUnavailableError: it does not answer.
        """
        try:
            connection = await _PromptConnection.connect(self._conninfo, autocommit=True)
        except (psycopg.Error, OSError) as error:
            raise translated(error) from error
        self._own = [*(one for one in self._own if not one.closed), connection]
        return connection

    async def close(self) -> None:
        """Close every connection; one that is in use when its transaction ends."""
        self._is_closed = True
        self._retire()
        for connection in self._own:
            if not connection.closed:
                # Whoever keeps it may listen to its socket, and the next one may get the same number.
                asyncio.get_running_loop().remove_reader(connection.fileno())
            await connection.close()

    @asynccontextmanager
    async def _transaction(self, limit_s: float) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(remaining_s(limit_s)), self._slots:
                generation = self._generation
                connection = await self._connected()
                try:
                    connection.begin()
                    yield connection
                    await connection.commit()
                except BaseException:
                    await _roll_back(connection)
                    raise
                finally:
                    self._put_back(connection, generation)
        except TimeoutError as error:
            raise DatabaseUnavailableError from error
        except (psycopg.Error, OSError, UnicodeEncodeError) as error:
            ours = translated(error)
            if isinstance(ours, ReadOnlyError | ConnectionLostError):
                # The others are to that server too, and a new one finds the one that writes, or that is there at all.
                self._retire()
            if ours is error:
                raise
            raise ours from error

    async def _connected(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.finish()
        return Connection(await psycopg.AsyncConnection.connect(self._conninfo))

    def _retire(self) -> None:
        """Use none of the connections again that there are: those that are idle are closed, the others when they are put back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().finish()

    def _put_back(self, connection: Connection, generation: int) -> None:
        if connection.is_usable and generation == self._generation and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.finish()


async def _roll_back(connection: Connection) -> None:
    """Undo what was begun; a connection that does not manage that at once is given up, and with it its transaction."""
    try:
        async with asyncio.timeout(ROLLBACK_LIMIT_S):
            await connection.rollback()
    except (TimeoutError, psycopg.Error):
        connection.finish()
    except asyncio.CancelledError:
        connection.finish()
        raise


class _PromptConnection(psycopg.AsyncConnection[Any]):
    """A connection whose wait ends when it is cancelled.

    psycopg asks the server to cancel the query and waits for up to ten seconds, which outlives every deadline of ours when
    the server hangs. Here the connection is closed; the server notices within `client_connection_check_interval`.
    """

    async def wait(
        self,
        gen: PQGen[_Result],
        interval: float = WAIT_INTERVAL_S,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is psycopg's
    ) -> _Result:
        """Wait as psycopg does; when cancelled in the middle of a query, close the connection and go."""
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


def translated(error: Exception) -> Exception:
    """Give our error for a driver's. What is neither about the data nor about being away is a defect and stays as it is."""
    if isinstance(error, UnicodeEncodeError):
        return UnwritableError("text that is not Unicode")
    if isinstance(error, OSError):
        return DatabaseUnavailableError()
    state = getattr(error, "sqlstate", None) or ""
    if state in _CONFLICTS:
        return ConflictError()
    if state[:2] in {"22", "23", "54"} or (not state and isinstance(error, psycopg.DataError)):
        constraint = getattr(getattr(error, "diag", None), "constraint_name", None)
        return UnwritableError(constraint or state or "a value that the driver refuses")
    lost = not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if lost or state.startswith(_ENDED) or _is_stale(error, state):
        return ConnectionLostError()
    return _away(state) or error


def _is_stale(error: Exception, state: str) -> bool:
    """Say whether what this connection has prepared is of no use any more: a migration changed a statement's columns, or the
    server does not know it. PostgreSQL says the former as a "feature not supported", told apart by the function that says it.
    """
    function = getattr(getattr(error, "diag", None), "source_function", None)
    return state == _NO_STATEMENT or (state == _NOT_SUPPORTED and function == "RevalidateCachedQuery")


def _away(state: str) -> DatabaseUnavailableError | None:
    if state == _READ_ONLY:
        return ReadOnlyError()
    return DatabaseUnavailableError() if state[:2] in _AWAY_CLASSES or state in _AWAY else None


def connect_sync(url: str) -> psycopg.Connection[Any]:
    """Open one blocking connection, for migrations."""
    return psycopg.connect(conninfo(url))


def conninfo(url: str) -> str:
    """Add what the URL leaves open: a bound on connecting, and on a transaction whose process hangs."""
    given = conninfo_to_dict(url)
    defaults: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "billing-service",
        # A machine that vanished sends no word: noticed within 25 s while nothing is under way, and 10 s while something is.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,  # milliseconds
        # The first does not count what came without a Sync: to the server a process that hangs after a `push` is about to go on.
        "options": f"-c idle_in_transaction_session_timeout=30s -c transaction_timeout={TRANSACTION_BOUND_S}s -c lock_timeout=8s -c statement_timeout=9s"
        f" -c client_connection_check_interval=1s {_AS_WE_READ} {_BY_KEY}",
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    return make_conninfo(**{**defaults, **chosen, "client_encoding": "UTF8"})
