"""`python -m sandbox` as a script or a person meets it: starts, stops, starts again, and says clearly what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import grpc
import pytest

from sandbox.channel import credentials
from sandbox.ports import HOST, Ports, free_port, is_free
from tests.acceptance.world import ROOT, Sandbox, World, launch, running, stop

pytestmark = pytest.mark.slow

# A port, and which socket listens on it.
Listener = tuple[int, str]
_SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))  # in the latter, gRPC's
_LISTEN = "0A"
_KEYS = {
    "grpc",
    "internal",
    "gateway",
    "stripe",
    "control",
    "clock",
    "ops",
    "storefront",
    "database",
    "api_key",
    "webhook_secret",
    "internal_token",
    "grpc_token",
    "admin_token",
    "gateway_ops",
}


@pytest.fixture
def data(reachable_folder: Path, request: pytest.FixtureRequest) -> Path:
    return reachable_folder / str(request.node.name)


@pytest.fixture
def log(data: Path) -> Path:
    return data.with_suffix(".log")


def _ports(sandbox: Sandbox) -> list[int]:
    urls = [
        sandbox[key] if "://" in sandbox[key] else f"//{sandbox[key]}"
        for key in _KEYS
        if f"{HOST}:" in sandbox.addresses.get(key, "")
    ]
    return [port for url in urls if (port := urlsplit(url).port)]


def _listeners(sandbox: Sandbox) -> set[Listener]:
    """Give what listens on the ports of a sandbox that runs."""
    return {(port, name) for port, name in _listening() if port in _ports(sandbox)}


def _left_running(listeners: set[Listener]) -> set[Listener]:
    """Give those that listen still. A port that somebody else has taken since is none of them."""
    return listeners & set(_listening())


def _listening() -> Iterator[Listener]:
    """Give every listening socket of the machine, by the kernel's number for it; elsewhere than on Linux every port, which may be taken anew."""
    tables = [path.read_text() for path in _SOCKETS if path.exists()]
    if not tables:
        yield from ((port, "") for port in range(1_024, 65_536) if not is_free(port))
        return
    for line in chain.from_iterable(table.splitlines()[1:] for table in tables):
        words = line.split()
        if words[3] == _LISTEN:
            yield int(words[1].partition(":")[2], 16), words[9]


def _free_row() -> int:
    """Give the first of enough free ports in a row."""
    return next(
        base
        for base in range(free_port(), 32_700)
        if all(is_free(port) for port in range(base, base + len(fields(Ports))))
    )


async def _world_says(sandbox: Sandbox, customer_id: str, *, buy: bool = False) -> list[str]:
    async with (
        grpc.aio.secure_channel(sandbox["grpc"], credentials(sandbox["grpc_token"])) as channel,
        aiohttp.ClientSession() as http,
    ):
        world = World(sandbox.addresses, channel, http)
        if buy:
            await world.pay(await world.checkout(customer_id))
            await world.until_plan(customer_id, "pro")
        return await world.plans_of(customer_id)


async def test_a_second_start_finds_its_data_and_a_stop_leaves_nothing(data: Path, log: Path) -> None:
    """One line of JSON; SIGTERM ends with 0 and nothing running; the next start knows who has paid, and the same secrets."""
    with running(data, log=log) as first:
        assert set(first.addresses) == _KEYS
        listeners = _listeners(first)
        assert {port for port, _ in listeners} == set(_ports(first))
        assert await _world_says(first, "keeper", buy=True) == ["pro"]
        assert stop(first.process) == 0
        assert not _left_running(listeners)
    with running(data, "--no-storefront", log=log) as second:
        assert set(second.addresses) == _KEYS - {"storefront"}
        kept = ("api_key", "webhook_secret", "internal_token", "grpc_token")
        assert {key: second[key] for key in kept} == {key: first[key] for key in kept}
        assert await _world_says(second, "keeper") == ["pro"]
    assert second.process.returncode == 0


def test_ctrl_c_stops_everything(data: Path, log: Path) -> None:
    """The terminal sends SIGINT to the whole process group; the sandbox still stops in order, with 0."""
    with running(data, log=log) as sandbox:
        listeners = _listeners(sandbox)
        os.killpg(sandbox.process.pid, signal.SIGINT)
        assert sandbox.process.wait(60) == 0
        assert not _left_running(listeners)
        assert "Traceback" not in sandbox.words()
        assert not (data / "running.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a launcher that was killed")
async def test_a_killed_sandbox_leaves_nothing_and_starts_again(data: Path, log: Path) -> None:
    """Kill -9 of the launcher takes its programs along, and the next start works at once, on the same ports, with its data."""
    ports = ("--ports", str(_free_row()))
    with running(data, *ports, log=log) as sandbox:
        assert await _world_says(sandbox, "keeper", buy=True) == ["pro"]
        sandbox.process.kill()
        sandbox.process.wait(10)
    with running(data, *ports, log=log) as again:
        assert again.addresses == sandbox.addresses
        assert await _world_says(again, "keeper") == ["pro"]
        listeners = _listeners(again)
    assert not _left_running(listeners)


@pytest.mark.skipif(sys.platform != "linux", reason="the process to kill is found in /proc")
def test_a_program_that_dies_is_named_and_the_sandbox_stops(data: Path, log: Path) -> None:
    """The death of one program ends the sandbox with 1, its name and its last lines, and the others are stopped."""
    with running(data, log=log) as sandbox:
        listeners = _listeners(sandbox)
        os.kill(_child(sandbox, b"webhook_gateway"), signal.SIGKILL)
        assert sandbox.process.wait(60) == 1
        assert "sandbox: The gateway ended (exit code -9); its last lines:" in sandbox.words()
        assert not _left_running(listeners)


def _child(sandbox: Sandbox, module: bytes) -> int:
    """Find the process of the sandbox that runs a module: the one in its process group with that word in its command."""
    for folder in Path("/proc").iterdir():
        if (
            folder.name.isdecimal()
            and module in _command(folder)
            and os.getpgid(int(folder.name)) == sandbox.process.pid
        ):
            return int(folder.name)
    raise AssertionError(f"no process of the sandbox runs {module.decode()}")


def _command(folder: Path) -> list[bytes]:
    try:
        return (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return []


def test_two_sandboxes_on_one_folder_are_refused_in_one_sentence(sandbox: Sandbox) -> None:
    data = sandbox.log.with_name("sandbox")
    second = subprocess.run(
        [sys.executable, "-m", "sandbox", "--ports", "0", "--data", str(data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith(f"sandbox: Another sandbox is running on {data};")
    assert second.stderr.count("\n") == 1


def test_a_port_in_use_is_named_in_one_sentence(data: Path, log: Path) -> None:
    """The port is named with what wanted it and how to choose others; nothing else was started."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = launch(data, "--ports", str(port - 1), log=log)  # the second of the row is the stand-in's
        assert stop_by_itself(process) == 1
    words = log.read_text()
    assert f"sandbox: Port {port} on {HOST}, meant for the stand-in Stripe, is in use;" in words
    assert "--ports 0" in words
    assert "Traceback" not in words


def test_damaged_secrets_are_named(data: Path, log: Path) -> None:
    data.mkdir()
    (data / "secrets.json").write_text(json.dumps({"api_key": "only this"}))
    assert stop_by_itself(launch(data, "--ports", "0", log=log)) == 1
    assert "secrets.json is damaged; remove it" in log.read_text()


def stop_by_itself(process: subprocess.Popen[str]) -> int:
    """Give the exit code of a sandbox that is to give up."""
    output, _ = process.communicate(timeout=60)
    assert output == ""
    return process.returncode
