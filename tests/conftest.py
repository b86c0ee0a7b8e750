"""What tests share: a real PostgreSQL with a migrated template database, cloned for each test that asks for one.

Each xdist worker runs a server of its own (about half a second, once, and only when a test asks for it): nothing is shared
between workers, so nothing needs a lock, and a worker that is killed takes its server with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import hypothesis
import psycopg
import pytest
import structlog
from psycopg import sql

from billing_service import garbage
from sandbox.ports import PART, part_of
from sandbox.postgres import FORGETFUL, EmbeddedPostgres
from tests.overheard.plugin import (  # noqa: F401 - hooks of pytest, which it finds here
    keep,
    pytest_configure,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

# A shared machine stalls for longer than hypothesis allows one example; what is slow shows in --durations instead.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")
# Where a test's own process logs an exception, structlog would have rich draw it with every local value: seconds, for what pytest
# throws away unless the test fails.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ[PART] = part_of(
        int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    )

_TEMPLATE = "billing_template"
_SPARE_WORKERS = 1
_MEMORY_BYTES = 4 * 2**30  # far more than all workers use together
_numbers = count(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, which takes a seventh of that time and finds nothing: what is collected stays."""
    with garbage.loading():
        return (yield)


def pytest_xdist_auto_num_workers() -> int | None:
    """Run one more worker than there are cores: now and then a test waits, for a program to start or for a limit to pass.

    None, for xdist's own number, where that is told by its variable.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return len(os.sched_getaffinity(0)) + _SPARE_WORKERS if hasattr(os, "sched_getaffinity") else None


def _memory() -> Path | None:
    """Give the folder of files in memory; None where there is none, or little of it (64 MiB in a container), or no program may run there."""
    folder = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return None
    found = os.statvfs(folder)
    return folder if found.f_bavail * found.f_frsize >= _MEMORY_BYTES and not found.f_flag & os.ST_NOEXEC else None


@pytest.fixture(scope="session")
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that other users can look into: pytest's own cannot, and as root PostgreSQL runs as another user.

    It is in memory where there is enough of it. Hundreds of databases are made and dropped here: on a disk that others use too, that
    takes half of a run, whatever PostgreSQL is told to forget.
    """
    folder = Path(tempfile.mkdtemp(prefix="billing-tests-", dir=_memory()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(reachable_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A running server for the whole session, fast because it forgets on a power cut."""
    with EmbeddedPostgres(reachable_folder / "postgres", settings=FORGETFUL) as server:
        yield server
        keep("postgres", server.log.read_text(errors="replace"))


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database at the newest revision of the schema, migrated once; nobody connects to it."""
    url = postgres.ensure_database(_TEMPLATE)
    if find_spec("billing_service.storage.schema") is not None:
        migrate = import_module("billing_service.storage.schema").migrate  # late: alembic is slow to import

        migrate(url)
    return _TEMPLATE


@pytest.fixture(scope="session")
def _admin(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def empty_database_url(_admin: psycopg.Connection, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The libpq URL of a database of the test's own with nothing in it, dropped afterwards."""
    name = f"empty_{next(_numbers)}"
    _admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres.url(name)
    _admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(_admin: psycopg.Connection, postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """The libpq URL of a migrated database of the test's own, dropped afterwards."""
    name = f"test_{next(_numbers)}"
    _admin.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
            sql.Identifier(name), sql.Identifier(template_database)
        )
    )
    yield postgres.url(name)
    _admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
