"""The schema: bringing a database to it, and checking that a database has it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.database import Connection, Database, connect_sync

MIGRATION_LOCK = 7_241_902_771  # an advisory lock's key: two migrations at once run one after the other
TURN_TIMEOUT_MS = 600_000  # how long a migration waits for another one to end
LOCK_TIMEOUT_MS = 5_000  # a migration that would queue behind a long transaction gives up instead of blocking everybody


def migrate(database_url: str) -> str:
    """Bring the database at a libpq URL to this program's schema; return the revision it has then.

    Raises:
        DatabaseUnavailableError: it does not answer.
    """
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_sync(database_url))
    config = _config()
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SET statement_timeout = 0"))
            connection.execute(sa.text(f"SET lock_timeout = {TURN_TIMEOUT_MS}"))
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except sa.exc.OperationalError as error:
        raise DatabaseUnavailableError("The database does not answer, or a lock on it was not to be had.") from error
    finally:
        engine.dispose()
    return expected_revision()


def expected_revision() -> str:
    """Say which revision of the schema this program is written for."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


async def schema_problem(database: Database) -> str | None:
    """Say in a sentence what is wrong with the database's schema for this program; None where it fits.

    Raises:
        DatabaseUnavailableError: it does not answer.
    """
    expected = expected_revision()
    found = await database.run(_revision)
    if found is None:
        return "The database has no schema yet: run `billing-service migrate`."
    if found < expected:
        return f"The database's schema is {found}, this program needs {expected}: run `billing-service migrate`."
    return None  # a newer schema than ours is fine: migrations expand first, and contract only later


async def _revision(connection: Connection) -> str | None:
    exists = await connection.scalar(sa.text("SELECT to_regclass('alembic_version') IS NOT NULL"))
    if not exists:
        return None
    revision: str | None = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
