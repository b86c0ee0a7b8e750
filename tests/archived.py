"""What restores an embedded PostgreSQL to a moment: archived WAL and a base backup, made as operators make them."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import psycopg

from sandbox.errors import SandboxError
from sandbox.ports import HOST
from sandbox.postgres import USER, EmbeddedPostgres
from tests.standby import until

_BACKUP_LIMIT_S = 60


class Archive:
    """A folder to which a server archives its WAL, with a base backup beside it."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that other users may look into; as root PostgreSQL runs as another one."""
        self._wal, self._base = folder / "wal", folder / "base"
        folder.mkdir()
        folder.chmod(0o711)
        self._wal.mkdir()
        self._wal.chmod(0o777)  # for that user, in the folder of one test

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a server that archives: a segment appears whole, and none replaces another."""
        copy = f"cp %p {self._wal}/%f.part && mv {self._wal}/%f.part {self._wal}/%f"
        return {"archive_mode": "on", "archive_command": f"test ! -f {self._wal}/%f && {copy}"}

    def base_backup(self, server: EmbeddedPostgres) -> None:
        """Copy a running server's data; the WAL that they need is in the archive, and nowhere else.

        Raises:
            SandboxError: the server gives no backup.
        """
        url = f"postgresql://{USER}:{server._password}@{HOST}:{server.port}/"
        done = subprocess.run(
            [
                *(server._programs / "bin/pg_basebackup", "-d", url, "-D", self._base),
                *("-X", "none", "-c", "fast", "--no-sync"),  # a test's data need not outlive a power cut
            ],
            capture_output=True, text=True, check=False, timeout=_BACKUP_LIMIT_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise SandboxError(f"pg_basebackup failed: {done.stderr}")

    def restore(self, server: EmbeddedPostgres, moment: datetime) -> None:
        """Put the backup in the place of a server's data, and have it recover to a moment; come back when it writes again.

        Raises:
            SandboxError: it does not start, or does not come to that moment.
        """
        server.stop()
        data = server._home / "data"
        shutil.rmtree(data)
        shutil.copytree(self._base, data)
        (data / "recovery.signal").touch()
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(
                f"restore_command = 'cp {self._wal}/%f %p'\n"
                f"recovery_target_time = '{moment.isoformat()}'\n"
                "recovery_target_action = 'promote'\n"
            )
        if (account := server._account) is not None:
            for path in (data, *data.rglob("*")):
                os.chown(path, account.uid, account.gid)
        server.start()
        with psycopg.connect(server.url(), autocommit=True) as connection:
            until(
                lambda: connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,),
                f"It does not come to {moment}:\n{server.last_log_lines()}",
            )
