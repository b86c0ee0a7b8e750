"""The TypeScript client: its stubs are the contract's, it builds strictly, and it talks to the running service."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from billing.v1.billing_service_pb2 import ListPlansRequest
from google.protobuf.json_format import MessageToDict

from billing_service.rpc.server import public_listener
from tests.acceptance.world import DEADLINE_S, World
from tests.forgetful import Forgetful
from tests.integration.clients.test_client import Service
from tests.integration.clients.tls import Authority, secured
from tests.integration.rpc.wire import serving
from tests.integration.test_templates import generate

FOLDER = Path(__file__).parents[2] / "clients/typescript"
LIMIT_S = 240  # of npm with a cold cache on a slow line; with a warm one it takes seconds
TOKENS = ("first-token-of-the-test", "second-token-of-the-test")

pytestmark = pytest.mark.skipif(
    not (shutil.which("npm") and shutil.which("node")),
    reason="npm and node are not there: the TypeScript client was neither built nor tried",
)
_with_npm = pytest.mark.slow  # npm installs the lock and starts compilers; as the wheels of the Python clients


def run(*command: str | Path, **environment: str) -> str:
    """Run a program in the client's folder; its output, or its error as the test's."""
    done = subprocess.run(
        command,
        cwd=FOLDER,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def alone() -> Iterator[None]:
    """Keep the other workers of this run out: there is one node_modules."""
    (FOLDER / "build").mkdir(exist_ok=True)
    with (FOLDER / "build/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def installed() -> None:
    """The packages of the lock, by their hashes; installed anew only when the lock is another one."""
    stamp = FOLDER / "node_modules/.lock-sha256"
    lock = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    with alone():
        if not stamp.exists() or stamp.read_text() != lock:
            run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline")
            stamp.write_text(lock)


def build(url: str) -> None:
    """Build the client, its test and the example of its page, all strictly."""
    (example,) = re.findall(r"^```ts\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert '"http://127.0.0.1:50051"' in example
    (FOLDER / "build/readme.ts").write_text(example.replace("http://127.0.0.1:50051", url))
    run("npm", "run", "--silent", "build")
    run("npm", "run", "--silent", "build:test")


@_with_npm
@pytest.mark.usefixtures("installed")
def test_the_typescript_stubs_are_what_buf_makes_of_the_contract(tmp_path: Path) -> None:
    generate("buf.gen.typescript.yaml", tmp_path)
    made, kept = tmp_path / "clients/typescript/src/gen", FOLDER / "src/gen"
    read = {
        folder: {path.relative_to(folder): path.read_text() for path in folder.rglob("*.ts")} for folder in (made, kept)
    }
    assert read[made] == read[kept], "run `make typescript` and commit"


def test_the_lock_names_hashes_and_no_registry() -> None:
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    installed_ones = {name: one for name, one in packages.items() if name}
    assert all(one["integrity"].startswith("sha512-") for one in installed_ones.values())
    assert not [name for name, one in installed_ones.items() if "resolved" in one]


@_with_npm
@pytest.mark.usefixtures("installed")
async def test_it_talks_to_the_running_service_and_reads_what_the_python_client_reads(
    world: World, customer_id: str, tmp_path: Path
) -> None:
    """Plans, entitlements of somebody who bought, refusals, a watch; mutual TLS and tokens; and its page's example runs."""
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    await world.until_delivered()
    plans = MessageToDict(await world.billing.ListPlans(ListPlansRequest(), timeout=DEADLINE_S))
    entitlements = MessageToDict(await world.entitlements(customer_id))
    entitlements.pop("readTime")
    authority = Authority(tmp_path / "certificates")
    service, server = Service(), authority.issue("server", addresses=["127.0.0.1"])
    authority.issue("client")
    async with secured(service, server, tokens=TOKENS, clients=authority) as address:
        environment = {
            "BILLING_URL": f"http://{world.addresses['grpc']}",
            "BILLING_TOKEN": world.addresses["grpc_token"],
            "BILLING_TLS_URL": f"https://{address}",
            "BILLING_TLS_FOLDER": str(authority.certificate.parent),
            "CUSTOMER_ID": customer_id,
            "EXPECTED_PLANS": json.dumps(plans),
            "EXPECTED_ENTITLEMENTS": json.dumps(entitlements),
        }
        with alone():
            await asyncio.to_thread(build, environment["BILLING_URL"])
        said = await asyncio.to_thread(
            run, "node", "--test", "--test-reporter=tap", "build/out/test/client.test.js", **environment
        )
        example = await asyncio.to_thread(run, "node", "build/out/build/readme.js", **environment)
    assert re.search(r"^# pass 9$", said, re.MULTILINE), said
    assert [metadata["authorization"] for _, _, metadata in service.seen] == [f"Bearer {token}" for token in TOKENS]
    for (_, remaining, _), limit in zip(service.seen, (10, 3), strict=True):
        assert remaining is not None
        assert limit - 2 < remaining < limit + 1  # gRPC rounds a deadline up
    assert "send them to http" in example


CALLER = """
import { createInterface } from "node:readline";
const { createBillingClient } = await import(process.env.BILLING_CLIENT);
const billing = createBillingClient({ baseUrl: process.env.BILLING_URL });
for await (const _ of createInterface({ input: process.stdin })) {
  const said = await billing.getEntitlements({ customerId: "ann" }).catch((error) => error);
  console.log(said.customerId ?? said.message);
}
"""


async def calling(script: str, address: str) -> asyncio.subprocess.Process:
    """Build the client, and start a Node process that calls a service with it."""
    with alone():
        await asyncio.to_thread(run, "npm", "run", "--silent", "build")
    return await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "--eval", script),
        env={**os.environ, "BILLING_CLIENT": str(FOLDER / "dist/index.js"), "BILLING_URL": f"http://{address}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


# As `CALLER`, but its connection is given up, as after a ping that was not answered, and at the same moment there is another call.
LEAVER = """
import http2 from "node:http2";
import { syncBuiltinESMExports } from "node:module";
const sessions = [];
const connect = http2.connect;
http2.connect = (...given) => { sessions.push(connect(...given)); return sessions.at(-1); };
syncBuiltinESMExports();
const { createBillingClient } = await import(process.env.BILLING_CLIENT);
const billing = createBillingClient({ baseUrl: process.env.BILLING_URL });
const call = () => billing.getEntitlements({ customerId: "ann" });
await call();
sessions[0].destroy(new Error("PING timed out"), http2.constants.NGHTTP2_CANCEL);
console.log((await call()).customerId, sessions.length);
billing.close();
"""


@_with_npm
@pytest.mark.usefixtures("installed")
async def test_a_call_in_the_moment_in_which_its_connection_is_given_up_does_not_end_the_process() -> None:
    """Node tells of the end of a connection a moment later; by then the call has left it, and nobody of the library's listens."""
    async with serving(public_listener(Service())) as wire:
        caller = await calling(LEAVER, str(wire.address))
        said, wrong = await asyncio.wait_for(caller.communicate(), LIMIT_S)
        assert (said, caller.returncode) == (b"ann 2\n", 0), wrong.decode()


@_with_npm
@pytest.mark.usefixtures("installed")
async def test_a_connection_that_was_forgotten_while_nobody_called_costs_the_next_call_nothing() -> None:
    """What lies between may forget it without a word; the client notices by itself, and does not wait for a deadline to find out."""
    async with serving(public_listener(Service())) as wire, Forgetful(wire.address.port).run() as forgetful:
        caller = await calling(CALLER, forgetful.address)
        assert caller.stdin is not None
        assert caller.stdout is not None
        try:
            async with asyncio.timeout(LIMIT_S):
                caller.stdin.write(b"call\n")
                assert await caller.stdout.readline() == b"ann\n"
                forgetful.forget()
                while not forgetful.given_up:  # noqa: ASYNC110 - nothing tells us
                    await asyncio.sleep(0.05)
                caller.stdin.write(b"call\n")
                assert await caller.stdout.readline() == b"ann\n"
        finally:
            with suppress(ProcessLookupError):  # it ended by itself, which the test is about to say
                caller.kill()
            await caller.wait()
