"""The schema: bringing a database to it, and checking that a database has it."""

from __future__ import annotations

import importlib
import re
import time
from functools import cache
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa
import structlog

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.database import Connection, Database, connect_sync
from billing_service.storage.lock_keys import LockKey

TURN_TRIES: Final = 1_200  # how often a migration looks whether another one has ended: ten minutes in all
TURN_PAUSE_S: Final = 0.5
# While a migration waits for a table's lock, everybody who comes after it waits too: so it waits briefly, gives way, and comes
# again. What was committed of it stays, and is not done twice. For longer than `deadlock_timeout`, 1 s, at which PostgreSQL sends away
# an autovacuum that somebody waits for.
LOCK_TIMEOUT_MS: Final = 1_500
LOCK_TRIES: Final = 60
LOCK_PAUSE_S: Final = 2.0
STATEMENT_TIMEOUT_MS: Final = (
    1_200_000  # an index on a large table takes minutes; one that takes longer is looked at by a person
)

# The oldest schema whose programs the newest one still serves. Raised by the migration that takes away what they need.
OLDEST_SERVED: Final = "0001"
_SERVES: Final = "Serves programs from schema {}"
_SERVED: Final = re.compile(_SERVES.format(r"(\d{4})"))

_IN_THE_WAY: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_log = structlog.stdlib.get_logger(__name__)


def migrate(database_url: str, *, lock_tries: int = LOCK_TRIES, lock_pause_s: float = LOCK_PAUSE_S) -> str:
    """Bring the database at a libpq URL to this program's schema; return the revision it has then.

    It may run while programs use the database: where a lock is not to be had within a second it gives way to them, and tries again.
    A database of a newer release is left as it is.

    Raises:
        DatabaseUnavailableError: it does not answer, or a lock was not to be had in `lock_tries` tries.
    """
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_sync(database_url))
    try:
        with engine.connect() as connection:
            _take_turn(connection)
            for tries in range(1, lock_tries + 1):
                try:
                    return _upgrade(connection)
                except sa.exc.OperationalError as error:
                    if not isinstance(error.orig, _IN_THE_WAY) or tries == lock_tries:
                        raise
                    _log.warning("migration_gives_way", tries=tries, of=lock_tries)
                    connection.rollback()
                time.sleep(lock_pause_s)
    except (sa.exc.OperationalError, psycopg.OperationalError) as error:
        raise DatabaseUnavailableError("The database does not answer, or a lock on it was not to be had.") from error
    finally:
        engine.dispose()
    return expected_revision()


def _take_turn(connection: sa.Connection) -> None:
    """Wait until no other migration runs; the lock is the connection's, and ends with it.

    It asks instead of waiting in a statement: CREATE INDEX CONCURRENTLY waits for every statement that was begun before it, and the
    two would wait for each other.
    """
    for _ in range(TURN_TRIES):
        taken = connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": LockKey.MIGRATION})
        connection.commit()
        if taken:
            break
        time.sleep(TURN_PAUSE_S)
    else:
        raise DatabaseUnavailableError("Another migration has been running for ten minutes; look what it waits for.")
    connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
    connection.execute(sa.text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}"))
    connection.execute(sa.text("SET transaction_timeout = 0"))
    connection.commit()


def _upgrade(connection: sa.Connection) -> str:
    """Run what is missing, each migration in a transaction of its own, and note whom the schema serves."""
    expected = expected_revision()
    found: str | None = None
    if connection.scalar(sa.text("SELECT to_regclass('alembic_version') IS NOT NULL")):
        found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    connection.commit()  # a migration that leaves its transaction must find none of ours
    if found is not None and found > expected:
        _log.warning("schema_is_newer", found=found, expected=expected)
        return found
    config = _config()
    config.attributes["connection"] = connection
    importlib.import_module("alembic.command").upgrade(config, "head")
    connection.execute(sa.text(f"COMMENT ON TABLE alembic_version IS '{_SERVES.format(OLDEST_SERVED)}'"))
    connection.commit()
    return expected


@cache
def expected_revision() -> str:
    """Say which revision of the schema this program is written for: the files are named by them, and every program need not ask alembic."""
    return max(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


async def schema_problem(database: Database) -> str | None:
    """Say in a sentence what is wrong with the database's schema for this program; None where it fits.

    Raises:
        DatabaseUnavailableError: it does not answer.
    """
    expected = expected_revision()
    found = await database.run(_revision)
    if found is None:
        return "The database has no schema yet: run `billing-service migrate`."
    revision, note = found
    if revision < expected:
        return f"The database's schema is {revision}, this program needs {expected}: run `billing-service migrate`."
    # A newer schema than ours is fine, because migrations expand first; until one contracts, and notes whom it still serves.
    served = _SERVED.search(note or "")
    if served is not None and expected < served[1]:
        return f"The database's schema is {revision} and serves programs from {served[1]} on; this one is of {expected}: upgrade it."
    return None


async def _revision(connection: Connection) -> tuple[str, str | None] | None:
    """Give the schema's revision, and the note that the migration left."""
    exists = await connection.scalar(sa.text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    if not exists:
        return None
    found: Any = await connection.execute(
        sa.text("SELECT version_num, obj_description('alembic_version'::regclass, 'pg_class') FROM alembic_version")
    )
    row = found.one_or_none()
    return None if row is None else (str(row[0]), row[1])


def _config() -> Any:
    """Give alembic's configuration. Late: it takes longer to import than all of ours, and only a migration needs it."""
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
