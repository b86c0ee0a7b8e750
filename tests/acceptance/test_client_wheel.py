"""`billing_client` works from a plain `pip install` of its wheel in an empty environment, without the service's dependencies."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from billing_service.rpc.server import public_listener
from tests.integration.clients.test_client import Service
from tests.integration.rpc.wire import serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from importlib.metadata import distributions
from billing.v1.entitlement_pb2 import GetEntitlementsRequest
from billing_client import Options, SyncBillingClient
with SyncBillingClient(Options([sys.argv[1]])) as billing:
    print(billing.get_entitlements(GetEntitlementsRequest(customer_id="ann")).revision)
print(*sorted(one.name.lower() for one in distributions()))
"""
NEEDED = {
    "billing-client", "googleapis-common-protos", "grpcio", "grpcio-status", "protobuf", "typing-extensions", "typing_extensions",
    "pip", "setuptools",
}  # fmt: skip


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program without our paths; its output, or its error as the test's."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [*command], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An environment with the wheel and what it asks for; give its Python.

    The versions are those of the lock, so that the same is tried whatever the index has today.
    """
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT / "clients/python")
    (wheel,) = tmp_path.glob("billing_client-*.whl")
    lock = (ROOT / "requirements/dev.txt").read_text()
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^[a-z0-9._-]+==[^ \\]+", lock, re.MULTILINE)))
    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    python = tmp_path / "empty/bin/python"
    run(
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints, wheel, cwd=tmp_path
    )
    return python


async def test_the_wheel_alone_reads_entitlements_in_an_empty_environment(empty: Path, tmp_path: Path) -> None:
    async with serving(public_listener(Service())) as wire:
        said = await asyncio.to_thread(run, empty, "-c", PROGRAM, str(wire.address), cwd=tmp_path)
    revision, installed = said.splitlines()
    assert revision == "7"
    assert set(installed.split()) <= NEEDED
