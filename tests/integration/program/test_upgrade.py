"""The release before, from the project's own history, works on while this one migrates its database."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import entitlement_pb2

from tests import stripe_events
from tests.integration.program.conftest import ROOT, Process, serving

pytestmark = pytest.mark.slow

VERSIONS = "billing_service/storage/migrations/versions"
COMMITS = 50  # that touched migrations, to look through
BUYERS = 4
PURCHASES_BEFORE = 20
PURCHASES_AFTER = 20
LIMIT_S = 120  # for anything that the test waits for
NOWHERE = "http://127.0.0.1:9"


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout


def migrations(revision: str) -> set[bytes]:
    """Give each migration of a commit, by name and content."""
    return {line.split(b" ", 2)[2] for line in git("ls-tree", "-r", revision, "--", VERSIONS).splitlines()}


def release_before() -> str:
    """Give the latest commit that has not all of the migrations that are here, and no others."""
    here = migrations("HEAD")
    for line in git("log", f"-{COMMITS}", "--format=%H", "HEAD", "--", VERSIONS).split():
        for commit in (line.decode(), f"{line.decode()}^"):
            if (then := migrations(commit)) < here and then:
                return commit
    raise LookupError("no commit has fewer migrations")


@pytest.fixture(scope="module")
def old_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service as it was, in a folder of its own; a program is run from the folder that is current."""
    try:
        archive = git("archive", release_before(), "billing_service", "catalog.toml")
    except (OSError, LookupError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the project's history is not here: {type(error).__name__}")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


async def migrate(database_url: str, folder: Path) -> None:
    """Run the `migrate` of a program in a folder."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", "migrate"),
        cwd=folder,
        env={**os.environ, "BILLING_DATABASE_URL": database_url},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


class Buyers:
    """Webhooks of one purchase after another, and a read after each; nothing may fail."""

    def __init__(self, service: Process) -> None:
        self._service = service
        self._stopping = False
        self._bought = asyncio.Condition()
        self.purchases = 0

    async def run(self) -> None:
        """Buy until `stop`."""
        await asyncio.gather(*(self._buy(buyer) for buyer in range(BUYERS)))

    async def until(self, count: int) -> None:
        """Wait for so many purchases, or for what went wrong with one."""
        async with asyncio.timeout(LIMIT_S), self._bought:
            await self._bought.wait_for(lambda: self.purchases >= count)

    def stop(self) -> None:
        """Begin no more."""
        self._stopping = True

    async def _buy(self, buyer: int) -> None:
        number = 0
        while not self._stopping:
            customer_id, number = f"{buyer}-{number}", number + 1
            for body in stripe_events.purchase(customer_id, int(time.time())):
                request = fulfillment_service_pb2.FulfillRequest(
                    events=[fulfillment_service_pb2.VerifiedEvent(payload=body)]
                )
                await self._service.fulfillment.Fulfill(request, metadata=self._service.metadata, timeout=30)
            read = entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)
            answer = await self._service.billing.GetEntitlements(read, timeout=30)
            assert list(answer.plan_keys) == ["pro"]
            async with self._bought:
                self.purchases += 1
                self._bought.notify_all()


async def test_the_release_before_works_on_while_its_database_is_migrated(
    empty_database_url: str, old_program: Path
) -> None:
    """Under webhooks and reads, not one of which fails; it is ready afterwards too, and the new release reads what it wrote."""
    await migrate(empty_database_url, old_program)
    async with serving(empty_database_url, NOWHERE, folder=old_program) as old:
        buyers = Buyers(old)
        buying = asyncio.create_task(buyers.run())
        try:
            await buyers.until(PURCHASES_BEFORE)
            await migrate(empty_database_url, ROOT)
            await buyers.until(buyers.purchases + PURCHASES_AFTER)
            await old.serving()
        finally:
            buyers.stop()
            await buying
    async with serving(empty_database_url, NOWHERE) as new:
        request = entitlement_pb2.GetEntitlementsRequest(customer_id="0-0")
        answer = await new.billing.GetEntitlements(request, timeout=30)
        assert list(answer.plan_keys) == ["pro"]
