"""The sandbox on a primary and a standby with synchronous replication, and what happens when the primary dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg

from sandbox.errors import SandboxError
from sandbox.ports import HOST, free_port
from sandbox.postgres import EmbeddedPostgres
from sandbox.stack import Plan, Stack
from tests.standby import REPLICATION, await_streaming, base_backup, until


class Replicated(Stack):
    """A stack whose programs are told of both servers, and take the one that writes."""

    def __init__(self, plan: Plan) -> None:
        """Prepare everything; the plan's PostgreSQL is the primary."""
        super().__init__(plan)
        self.standby = EmbeddedPostgres(plan.folder / "standby", port=free_port(), settings=REPLICATION)
        self._folder = plan.folder

    def service_environment(self) -> dict[str, str]:
        """Name both servers, as an operator does."""
        servers = f"{HOST}:{self.postgres.port},{HOST}:{self.standby.port}"
        url = self.database_url.replace(f"{HOST}:{self.postgres.port}", servers)
        return {**super().service_environment(), "BILLING_DATABASE_URL": f"{url}?target_session_attrs=read-write"}

    def replicate(self, *, synchronous: bool) -> None:
        """Make the standby from a base backup, start it, and come back once it follows.

        With `synchronous`, a commit is answered only when the standby has it on its disk.

        Raises:
            SandboxError: it does not follow.
        """
        base_backup(self.postgres, self._folder / "standby")
        self.standby.start()
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            if synchronous:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
                connection.execute("SELECT pg_reload_conf()")
            await_streaming(connection, "sync" if synchronous else "async")

    def cut_off(self) -> None:
        """Have the standby hear nothing more of the primary, as when the network between them is cut."""
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")

            def alone() -> bool:
                return connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() == (0,)

            until(alone, "The standby still follows.")

    def kill_primary(self) -> None:
        """End every process of the primary at once, as the end of its machine would."""
        process = self.postgres.process
        if process is None:
            raise SandboxError("The primary was not started.")
        for pid in (process.pid, *_children(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()

    def promote(self) -> None:
        """Make the standby the primary, as whoever watches over both does; come back when it writes."""
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => true, wait_seconds => 30)")

    def stop(self) -> None:
        """Stop everything: the programs first."""
        for child in reversed(self.children):
            child.stop()
        self.standby.stop()
        self.postgres.stop()


def _children(pid: int | None) -> list[int]:
    """Give a process's children (Linux)."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []
