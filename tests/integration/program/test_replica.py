"""The service as a process with a replica beside its database: what callers and operators see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from billing.v1 import entitlement_pb2 as pb

from tests.integration.program.conftest import BOUND_S, Process, serving
from tests.standby import Pair, execute, running_pair

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def pair(reachable_folder: Path) -> Iterator[Pair]:
    with running_pair(reachable_folder) as servers:
        yield servers


async def asked(service: Process) -> list[Any]:
    """Ask in each way that a replica may answer."""
    request = pb.GetEntitlementsRequest(customer_id="ann")
    batch = await service.billing.BatchGetEntitlements(pb.BatchGetEntitlementsRequest(requests=[request]))
    check = pb.CheckEntitlementRequest(customer_id="ann", feature_key="projects")
    return [
        await service.billing.GetEntitlements(request),
        await service.billing.CheckEntitlement(check),
        *batch.responses,
    ]


async def page(service: Process, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{service.ops}{path}") as response:
        return await response.text()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not await holds():  # noqa: ASYNC110 - each look is a call
            await asyncio.sleep(0.01)


async def test_a_replica_answers_says_of_when_and_is_left_where_it_lags(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers find facts_time in each kind of answer; operators a warning and the numbers; nobody an answer that is too old."""
    pair.write(1)
    primary, standby = pair.primary.url("billing"), pair.standby.url("billing")
    monkeypatch.setenv("BILLING_READ_DATABASE_URL", standby)
    async with serving(primary, NOWHERE) as service:

        async def from_replica() -> bool:
            answers = await asked(service)
            assert {answer.revision for answer in answers} == {1}
            return all(answer.HasField("facts_time") for answer in answers)

        async def from_primary() -> bool:
            return not any(answer.HasField("facts_time") for answer in await asked(service))

        await eventually(from_replica)
        answer = (await asked(service))[0]
        if answer.HasField("facts_time"):
            age_s = answer.read_time.ToNanoseconds() - answer.facts_time.ToNanoseconds()
            assert 0 <= age_s <= 1_000_000_000
        assert "go to the primary" not in await page(service, "/readyz")
        execute(standby, "SELECT pg_wal_replay_pause()")
        pair.write(2)
        after = pb.GetEntitlementsRequest(customer_id="ann", min_revision=2)
        found = await service.billing.GetEntitlements(after)
        assert (found.revision, found.HasField("facts_time")) == (2, False)
        await eventually(from_primary)
        assert "go to the primary: the replica is more than 1000 ms behind" in await page(service, "/readyz")
        numbers = await page(service, "/metrics")
        assert 'billing_replica_reads_total{outcome="answered"}' in numbers
        assert 'billing_replica_reads_total{outcome="revision"} 1.0' in numbers
        assert "billing_replica_staleness_seconds" in numbers
        execute(standby, "SELECT pg_wal_replay_resume()")


async def test_without_a_replica_nothing_is_said_of_one(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary answers, and facts_time is absent: everything that was committed is in the answer."""
    monkeypatch.delenv("BILLING_READ_DATABASE_URL", raising=False)
    async with serving(database_url, NOWHERE) as service:
        assert not any(answer.HasField("facts_time") for answer in await asked(service))
        assert "replica" not in await page(service, "/readyz")
