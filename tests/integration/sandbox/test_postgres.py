"""The embedded PostgreSQL starts, whatever an earlier run left behind, and leaves nothing running."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from sandbox.errors import SandboxError
from sandbox.ports import HOST, free_port
from sandbox.postgres import FORGETFUL, EmbeddedPostgres

_START_AND_WAIT = """
import sys
from pathlib import Path
from sandbox.postgres import FORGETFUL, EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), settings=FORGETFUL)
server.start()
print(server.pid, server.port, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(reachable_folder: Path, request: pytest.FixtureRequest) -> Path:
    return reachable_folder / str(request.node.name) / "postgres"


def _select_one(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 1").fetchone()
    assert row is not None
    return int(row[0])


def test_a_second_start_finds_its_data(folder: Path) -> None:
    """What was committed before a stop is there after the next start, under the same password."""
    server = EmbeddedPostgres(folder, settings=FORGETFUL)
    with server:
        url = server.ensure_database("kept")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE note AS SELECT 'here' AS text")
    with server, psycopg.connect(server.ensure_database("kept")) as connection:
        assert connection.execute("SELECT text FROM note").fetchone() == ("here",)


def test_a_stop_leaves_nothing_running_and_may_be_repeated(folder: Path) -> None:
    server = EmbeddedPostgres(folder, settings=FORGETFUL)
    server.start()
    server.stop()
    server.stop()
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        _select_one(server.url())


def test_the_server_survives_its_own_kill(folder: Path) -> None:
    """A stale postmaster.pid after kill -9 of the server is no obstacle."""
    server = EmbeddedPostgres(folder, settings=FORGETFUL)
    server.start()
    assert server.process is not None
    server.process.kill()
    server.process.wait(10)
    assert (folder / "data" / "postmaster.pid").exists()
    with server:
        assert _select_one(server.url()) == 1


def test_a_pid_file_that_names_another_program_harms_nobody(folder: Path) -> None:
    """A process that got the number of a dead server is neither stopped nor waited for."""
    server = EmbeddedPostgres(folder, settings=FORGETFUL)
    server.start()
    server.stop()
    with subprocess.Popen(["sleep", "600"]) as bystander:
        (folder / "data" / "postmaster.pid").write_text(
            f"{bystander.pid}\n{folder / 'data'}\n0\n1\n\n127.0.0.1\n\nready\n"
        )
        try:
            with server:
                assert _select_one(server.url()) == 1
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_killed_launcher_takes_its_server_along_or_the_next_start_stops_it(folder: Path) -> None:
    """After kill -9 of whoever started the server, a second start on the same folder works at once."""
    with subprocess.Popen(
        [sys.executable, "-c", _START_AND_WAIT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline().split()[0])
        launcher.kill()
    server = EmbeddedPostgres(folder, settings=FORGETFUL)
    with server:
        assert _select_one(server.url()) == 1
        assert server.pid != pid
        assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_port_in_use_is_named_with_the_way_out(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=rf"Port {port} .* is in use.*--ports 0"):
            EmbeddedPostgres(folder, port=port, settings=FORGETFUL).start()


def test_it_listens_on_the_loopback_alone_and_wants_its_password(folder: Path) -> None:
    with (
        EmbeddedPostgres(folder, port=free_port(), settings=FORGETFUL) as server,
        psycopg.connect(server.url()) as connection,
    ):
        assert connection.execute("SHOW listen_addresses").fetchone() == (HOST,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"postgresql://billing:guess@{HOST}:{server.port}/postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has the trouble that PostgreSQL refuses to run as root")
def test_root_may_keep_its_data_below_a_closed_folder(folder: Path) -> None:
    """As root, a folder that no other user can look into works too, and its permissions stay as they were."""
    closed = folder.parent / "closed"
    closed.mkdir(parents=True, mode=0o700)
    with EmbeddedPostgres(closed / "postgres", settings=FORGETFUL) as server:
        assert _select_one(server.url()) == 1
    home = (closed / "postgres").resolve()
    try:
        assert home.name.startswith("billing-postgres-")
        assert closed.stat().st_mode & 0o777 == 0o700
        with EmbeddedPostgres(closed / "postgres", settings=FORGETFUL) as again:
            assert _select_one(again.url()) == 1
    finally:
        shutil.rmtree(home)


def test_the_server_ends_gracefully_when_asked_by_its_tether(folder: Path) -> None:
    """The signal that the tether sends means a fast shutdown: no recovery is needed afterwards."""
    server = EmbeddedPostgres(folder, settings=FORGETFUL)
    server.start()
    assert server.process is not None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert not (folder / "data" / "postmaster.pid").exists()
