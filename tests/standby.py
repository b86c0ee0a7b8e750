"""A streaming standby of an embedded PostgreSQL, made as operators make one."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from billing_service.storage.schema import migrate
from sandbox.errors import SandboxError
from sandbox.ports import HOST, free_port
from sandbox.postgres import FORGETFUL, USER, EmbeddedPostgres

REPLICATION = {"wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on", "shared_buffers": "64MB"}
_BACKUP_LIMIT_S = 60
_WAIT_S = 30.0
_LOOK_EVERY_S = 0.02


def base_backup(primary: EmbeddedPostgres, folder: Path) -> None:
    """Make the data of a standby that follows a running primary, in the folder where an `EmbeddedPostgres` will look for it.

    Raises:
        SandboxError: the primary gives no backup.
    """
    folder.mkdir(mode=0o700)
    url = f"postgresql://{USER}:{primary._password}@{HOST}:{primary.port}/?application_name=standby"
    done = subprocess.run(
        [
            *(primary._programs / "bin/pg_basebackup", "-d", url, "-D", folder / "data"),
            *("-R", "-X", "stream", "-c", "fast", "--no-sync"),  # a test's data need not outlive a power cut
        ],
        capture_output=True, text=True, check=False, timeout=_BACKUP_LIMIT_S,
    )  # fmt: skip
    if done.returncode != 0:
        raise SandboxError(f"pg_basebackup failed: {done.stderr}")
    (folder / "password").write_text(primary._password + "\n")
    if (account := primary._account) is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.uid, account.gid)


def await_streaming(primary: psycopg.Connection, sync_state: str = "async") -> None:
    """Come back once the standby follows.

    Raises:
        SandboxError: it does not.
    """

    def follows() -> bool:
        row = primary.execute("SELECT state, sync_state FROM pg_stat_replication").fetchone()
        return row == ("streaming", sync_state)

    until(follows, "The standby does not follow.")


def until(holds: Callable[[], bool], otherwise: str) -> None:
    """Look again and again.

    Raises:
        SandboxError: it does not come to hold within half a minute; says what.
    """
    deadline = time.monotonic() + _WAIT_S
    while not holds():
        if time.monotonic() > deadline:
            raise SandboxError(otherwise)
        time.sleep(_LOOK_EVERY_S)


class Pair:
    """A primary and its standby, with one migrated database."""

    def __init__(self, folder: Path) -> None:
        """Take a folder for the data of both."""
        settings = {**FORGETFUL, **REPLICATION}
        self.primary = EmbeddedPostgres(folder / "primary", port=free_port(), settings=settings)
        self.standby = EmbeddedPostgres(folder / "standby", port=free_port(), settings=settings)
        self._standby_folder = folder / "standby"

    def start(self) -> None:
        """Come back when the standby follows."""
        self.primary.start()
        migrate(self.primary.ensure_database("billing"))
        base_backup(self.primary, self._standby_folder)
        self.standby.start()
        with psycopg.connect(self.primary.url(), autocommit=True) as connection:
            await_streaming(connection)

    def stop(self) -> None:
        """Stop both."""
        self.standby.stop()
        self.primary.stop()

    def write(self, revision: int) -> None:
        """Commit a revision of Ann's on the primary."""
        execute(
            self.primary.url("billing"),
            "INSERT INTO customers (customer_id, revision) VALUES ('ann', %s)"
            " ON CONFLICT (customer_id) DO UPDATE SET revision = excluded.revision",
            revision,
        )


@contextmanager
def running_pair(parent: Path) -> Iterator[Pair]:
    """Give a running pair in a folder of its own, and stop it afterwards."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    folder.chmod(0o711)
    servers = Pair(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def execute(url: str, statement: str, *values: object) -> None:
    """Run one statement and commit it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement, values)
