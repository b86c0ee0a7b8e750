"""The second peer: npm's @supabase/stripe-sync-engine behind a bare Node server (`mirror/server.cjs`).

Its packages are installed beside it from the lock file, once. Where npm is missing the peer is left out, and the report says so.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.bodies import INVOICE, SESSION, SUBSCRIPTION, Stream, event_type, place
from benchmarks.errors import BenchmarkError
from benchmarks.load import Outcome
from benchmarks.programs import Running
from benchmarks.stage import Stage
from sandbox.ports import free_port

_FOLDER = Path(__file__).parent / "mirror"
_INSTALL_TIMEOUT_S = 300
POOL = 20  # its own default is 10; with 20 it was faster
_TABLES = {INVOICE: "invoices", SUBSCRIPTION: "subscriptions", SESSION: "checkout_sessions"}


@dataclass(frozen=True)
class Mirror:
    """The running peer."""

    running: Running
    port: int
    database_url: str
    version: str

    def verify(self, stream: Stream, outcome: Outcome, ids: dict[str, str]) -> None:
        """See that what it acknowledged is in its tables. `ids`: the template of each type's object id.

        Raises:
            BenchmarkError: something is missing.
        """
        wanted: dict[str, set[str]] = {}
        for position in outcome.acknowledged:
            customer, visit = place(stream, stream.start + position)
            name = event_type(stream.start + position)
            wanted.setdefault(name, set()).add(ids[name].replace("@@", customer).replace("##", visit))
        with psycopg.connect(self.database_url) as connection:
            for name, object_ids in wanted.items():
                row = connection.execute(
                    f"SELECT count(*) FROM stripe.{_TABLES[name]} WHERE id = ANY(%s)",  # noqa: S608 - a constant of this module
                    [list(object_ids)],
                ).fetchone()
                if row is None or row[0] != len(object_ids):
                    raise BenchmarkError(f"the mirror acknowledged {name} events that it does not hold")


def why_not() -> str | None:
    """Say why the peer cannot take part, or None."""
    return None if shutil.which("npm") and shutil.which("node") else "npm and node are not on the PATH"


def start(stage: Stage, *, may_install: bool = True) -> Mirror:
    """Install its packages unless they are there, and start it on a database of its own.

    Raises:
        BenchmarkError: npm fails, or the program does not start.
    """
    if not (_FOLDER / "node_modules").exists():
        if not may_install:
            raise BenchmarkError("the mirror's packages are not installed")
        _install()
    url, port = stage.postgres.ensure_database("mirror"), free_port()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE postgres NOLOGIN")  # its migrations give functions to a role of this name
    environment = {
        "DATABASE_URL": url,
        "WEBHOOK_SECRET": stage.secret,
        "PORT": str(port),
        "POOL": str(POOL),
        "NODE_ENV": "production",
    }
    node = shutil.which("node") or "node"
    running = stage.start("mirror", [node, str(_FOLDER / "server.cjs")], environment, port, "/")
    return Mirror(running, port, url, _version())


def _install() -> None:
    command = [shutil.which("npm") or "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=_FOLDER, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_S)
    if done.returncode:
        raise BenchmarkError(f"npm could not install the mirror's packages: {done.stderr[-1000:]}")


def _version() -> str:
    node = subprocess.run([shutil.which("node") or "node", "--version"], capture_output=True, text=True, check=False)
    return f"Node {node.stdout.strip()}"
