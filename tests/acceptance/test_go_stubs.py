"""Stubs for Go: what buf makes of the contract compiles, and a caller built on it talks to the running service."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from billing_service.rpc.server import public_listener
from tests.acceptance.world import World
from tests.integration.clients.test_client import Service
from tests.integration.clients.tls import Authority, secured
from tests.integration.rpc.wire import listening
from tests.integration.test_templates import PREFIX, generate

CALLER = Path(__file__).parent / "go_caller"
PROGRAMS = ("go", "gofmt", "protoc-gen-go", "protoc-gen-go-grpc")
# As packages of the machine, so that nothing is fetched. gRPC must itself stand on google.golang.org/protobuf: over
# github.com/golang/protobuf 1.3, which Debian's gRPC takes where nobody chooses, the stubs compile, and panic when they are used.
LIBRARIES = ("google.golang.org/grpc", "google.golang.org/genproto/googleapis/rpc/errdetails")
RUNTIME = "google.golang.org/protobuf/proto"
PACKAGED = "/usr/share/gocode"  # Debian's packages of Go
ABSENT = "the stubs for Go were neither compiled nor tried: there is no "
LIMIT_S = 600  # of the compiler with a cold cache, which then compiles gRPC too: a minute of one core
TOKEN = "token-of-the-test"

pytestmark = pytest.mark.slow


def run(*command: str | Path, **environment: str) -> str:
    """Run a program; its output, or its error as the test's."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def go(tmp_path: Path) -> dict[str, str]:
    """How Go finds a folder of ours and the machine's gRPC, and asks no network; skipped where it has none."""
    known = [str(tmp_path / "go"), os.environ.get("GOPATH", ""), PACKAGED]
    environment = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": os.pathsep.join(one for one in known if one)}
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(ABSENT + ", ".join(missing))
    found = run("go", "list", "-e", "-deps", "-f", "{{if not .Error}}{{.ImportPath}}{{end}}", *LIBRARIES, **environment)
    if missing := [name for name in (*LIBRARIES, RUNTIME) if name not in found.split()]:
        pytest.skip(f"{ABSENT}{', '.join(missing)} in GOPATH or {PACKAGED}")
    return environment


@pytest.fixture
def caller(go: dict[str, str], tmp_path: Path) -> Path:
    """The caller, compiled with what the template makes of the contract."""
    generate("buf.gen.go.yaml", tmp_path)
    shutil.copytree(tmp_path / "build/go", tmp_path / "go/src" / PREFIX)
    shutil.copytree(CALLER, tmp_path / "go/src/example.com/billing/caller")
    run("go", "build", "-o", tmp_path / "caller", "example.com/billing/caller", **go)
    return tmp_path / "caller"


async def ask(caller: Path, what: str, customer_id: str, there: Mapping[str, str]) -> Any:
    """Let the caller make one call, and give what it read of the answer."""
    return json.loads(await asyncio.to_thread(run, caller, ASK=what, CUSTOMER_ID=customer_id, **there))


def test_the_caller_is_written_as_gofmt_writes(go: dict[str, str]) -> None:
    assert not run("gofmt", "-l", CALLER, **go)


async def test_it_talks_to_the_running_service_and_reads_what_the_python_client_reads(
    caller: Path, world: World, customer_id: str, tmp_path: Path
) -> None:
    """Entitlements of somebody who bought, typed refusals, a stream, mutual TLS, health. One test, for it compiles but once."""
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    await world.until_delivered()
    there = {"BILLING_ADDRESS": world.addresses["grpc"], "BILLING_TOKEN": world.addresses["grpc_token"]}
    expected = MessageToDict(await world.entitlements(customer_id))
    expected.pop("readTime")
    entitlements = await ask(caller, "entitlements", customer_id, there)
    assert entitlements.pop("readTime")
    assert entitlements == expected
    (projects,) = [one["value"] for one in expected["entitlements"] if one["featureKey"] == "projects"]
    assert await ask(caller, "check", customer_id, there) == int(projects["integerValue"])
    kinds = await ask(caller, "watch", customer_id, there)
    assert kinds == ["KIND_SNAPSHOT_BEGIN", "KIND_SNAPSHOT", "KIND_SNAPSHOT_END"]
    await reads_refusals(caller, customer_id, there)
    await shows_who_it_is_over_mutual_tls(caller, tmp_path / "certificates")
    await follows_health(caller)


async def reads_refusals(caller: Path, customer_id: str, there: Mapping[str, str]) -> None:
    """A code, our reason as the stubs' own value, and the fields that do not hold."""
    refused = await ask(caller, "checkout", customer_id, there)
    assert refused == {"code": "NotFound", "reason": "ERROR_REASON_PLAN_NOT_FOUND", "violations": {}}
    refused = await ask(caller, "entitlements", "", there)
    assert (refused["reason"], list(refused["violations"])) == ("ERROR_REASON_INVALID_FIELDS", ["customer_id"])
    refused = await ask(caller, "entitlements", customer_id, {**there, "BILLING_TOKEN": "of-nobody"})
    assert (refused["code"], refused["reason"]) == ("Unauthenticated", "ERROR_REASON_UNAUTHENTICATED")


async def shows_who_it_is_over_mutual_tls(caller: Path, folder: Path) -> None:
    """Its certificate, its token, its deadline."""
    authority = Authority(folder)
    service, server = Service(), authority.issue("server", addresses=["127.0.0.1"])
    authority.issue("client")
    async with secured(service, server, tokens=[TOKEN], clients=authority) as address:
        there = {"BILLING_ADDRESS": address, "BILLING_TOKEN": TOKEN, "BILLING_TLS_FOLDER": str(folder)}
        assert await ask(caller, "entitlements", "ann", there) == {"customerId": "ann", "revision": "7"}
    ((_, remaining, metadata),) = service.seen
    assert metadata["authorization"] == f"Bearer {TOKEN}"
    assert remaining is not None
    assert 5 < remaining < 11  # gRPC rounds a deadline up


async def follows_health(caller: Path) -> None:
    """A process that does not serve is not called, and what comes of it is no refusal of the service's own."""
    service = Service()
    listener = public_listener(service)
    async with listening(listener) as wire:
        there = {"BILLING_ADDRESS": str(wire.address), "BILLING_TOKEN": TOKEN}
        await listener.set_serving(serving=False)
        refused = await ask(caller, "entitlements", "ann", there)
        assert refused == {"code": "Unavailable", "reason": "ERROR_REASON_UNSPECIFIED", "violations": {}}
        assert not service.seen
        await listener.set_serving(serving=True)
        assert await ask(caller, "entitlements", "ann", there) == {"customerId": "ann", "revision": "7"}
