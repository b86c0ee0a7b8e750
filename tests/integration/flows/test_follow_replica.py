"""Reads on a real standby: used while it is hardly behind, and never believed beyond what it can show."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_service.domain.entitlement import Entitlements
from billing_service.domain.errors import DatabaseUnavailableError, RevisionNotReachedError
from billing_service.flows.follow_replica import FollowReplica, ReplicaOutcome
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.storage.database import Database
from billing_service.storage.schema import migrate
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE
from tests.standby import Pair, execute, running_pair

pytestmark = pytest.mark.slow

MOST_AGE_S = 1.0
BOUND_S = 30.0  # for anything that a test waits for


class Reader:
    """One process's reads, and what has become of each."""

    def __init__(self, read: ReadEntitlements, replica: FollowReplica, outcomes: Counter[ReplicaOutcome]) -> None:
        self.replica = replica
        self.outcomes = outcomes
        self._read = read

    async def __call__(self, min_revision: int = 0) -> Entitlements:
        """Read Ann's, and check what holds of every answer."""
        answer = await self._read("ann", min_revision)
        if answer.facts_time is not None:
            assert timedelta(0) < answer.read_time - answer.facts_time <= timedelta(seconds=MOST_AGE_S)
        return answer

    async def until(self, holds: Callable[[Entitlements], bool]) -> Entitlements:
        """Read until an answer is as it is to be."""
        async with asyncio.timeout(BOUND_S):
            while not holds(answer := await self()):  # noqa: ASYNC110 - each look is a read
                await asyncio.sleep(0)
        return answer

    async def from_replica(self) -> Entitlements:
        """Read until the replica answers."""
        return await self.until(lambda answer: answer.facts_time is not None)

    async def from_primary(self) -> Entitlements:
        """Read until the primary answers."""
        return await self.until(lambda answer: answer.facts_time is None)


@asynccontextmanager
async def reading(primary_url: str, replica_url: str) -> AsyncIterator[Reader]:
    primary, replica = Database(primary_url), Database(replica_url)
    outcomes: Counter[ReplicaOutcome] = Counter()
    async with StripeApi("sk_test_x", NOWHERE) as stripe:

        def count(outcome: ReplicaOutcome) -> None:
            outcomes[outcome] += 1

        follow = FollowReplica(primary, replica, MOST_AGE_S, count)
        read = ReadEntitlements(primary, Prices(primary, stripe, CATALOG), lambda: datetime.now(UTC), follow)
        running = asyncio.create_task(follow.run())
        try:
            yield Reader(read, follow, outcomes)
        finally:
            running.cancel()
            await asyncio.wait({running})
            await replica.close()
            await primary.close()


@pytest.fixture(scope="module")
def shared_pair(reachable_folder: Path) -> Iterator[Pair]:
    """For tests that leave both running and in step."""
    with running_pair(reachable_folder) as servers:
        yield servers


@pytest.fixture
def pair(reachable_folder: Path) -> Iterator[Pair]:
    """For tests that end one of the servers."""
    with running_pair(reachable_folder) as servers:
        yield servers


@asynccontextmanager
async def paused(pair: Pair) -> AsyncIterator[None]:
    """The standby receives what the primary writes, and does not replay it."""
    execute(pair.standby.url("billing"), "SELECT pg_wal_replay_pause()")
    try:
        yield
    finally:
        execute(pair.standby.url("billing"), "SELECT pg_wal_replay_resume()")


async def test_a_replica_that_lags_is_left_for_the_primary_before_its_answers_are_too_old(shared_pair: Pair) -> None:
    """While replay stands, an answer without a committed change says that it is of before the commit; soon none is given."""
    shared_pair.write(1)
    async with reading(shared_pair.primary.url("billing"), shared_pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 1)
        assert reader.replica.warnings() == []
        async with paused(shared_pair):
            shared_pair.write(2)
            committed = datetime.now(UTC)

            def told_the_truth(answer: Entitlements) -> bool:
                assert answer.revision == 2 or (answer.facts_time is not None and answer.facts_time < committed)
                return answer.revision == 2

            assert (await reader.until(told_the_truth)).facts_time is None
            await reader.from_primary()
            assert reader.replica.warnings() == ["all reads go to the primary: the replica is more than 1000 ms behind"]
        assert (await reader.from_replica()).revision == 2
        assert reader.replica.warnings() == []


async def test_a_revision_that_the_replica_has_not_got_is_read_from_the_primary(shared_pair: Pair) -> None:
    shared_pair.write(3)
    async with reading(shared_pair.primary.url("billing"), shared_pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 3)
        async with paused(shared_pair):
            shared_pair.write(4)
            answer = await reader(4)
            assert (answer.revision, answer.facts_time) == (4, None)
        with pytest.raises(RevisionNotReachedError):
            await reader(99)


async def test_answers_come_from_the_replica_while_it_follows(shared_pair: Pair) -> None:
    """All of them, at rest too: a primary where nothing happens does not make a replica look old."""
    shared_pair.write(5)
    async with reading(shared_pair.primary.url("billing"), shared_pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 5)
        answers = await asyncio.gather(*(reader() for _ in range(50)))
        assert all(answer.facts_time is not None for answer in answers)
        assert {answer.revision for answer in answers} == {5}
        assert reader.outcomes[ReplicaOutcome.ANSWERED] >= 50


async def test_a_database_that_does_not_follow_is_never_believed(shared_pair: Pair) -> None:
    """As when the address leads to a copy, a restored backup, or another installation: it has none of our beats."""
    shared_pair.write(6)
    other = shared_pair.primary.ensure_database("other")
    await asyncio.to_thread(migrate, other)
    async with reading(shared_pair.primary.url("billing"), other) as reader:
        await _settled(reader, "ms behind")
        assert (await reader()).facts_time is None
        assert reader.outcomes[ReplicaOutcome.ANSWERED] == 0


async def test_a_replica_with_an_older_schema_is_not_used(shared_pair: Pair) -> None:
    """As during an upgrade, until it has replayed the migration."""
    shared_pair.write(7)
    empty = shared_pair.primary.ensure_database("empty")
    async with reading(shared_pair.primary.url("billing"), empty) as reader:
        await _settled(reader, "cannot be read")
        assert (await reader()).revision == 7


async def test_a_replica_that_dies_takes_no_read_along_and_is_used_again_when_it_is_back(shared_pair: Pair) -> None:
    pair = shared_pair
    pair.write(8)
    async with reading(pair.primary.url("billing"), pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 8)
        await asyncio.to_thread(pair.standby.stop)
        try:
            assert (await reader.from_primary()).revision == 8
            await _settled(reader, "does not answer")
        finally:
            pair.standby.start()  # on this thread: the server dies with the one that started it
        assert (await reader.from_replica()).revision == 8


async def test_a_standby_that_was_promoted_on_its_own_is_not_believed(pair: Pair) -> None:
    """It takes writes of its own and hears of nobody's any more: two servers that both think that they are the primary."""
    pair.write(1)
    async with reading(pair.primary.url("billing"), pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 1)
        execute(pair.standby.url("billing"), "SELECT pg_promote(wait => true)")
        execute(pair.standby.url("billing"), "UPDATE customers SET revision = 50")
        pair.write(2)
        await _settled(reader, "ms behind")
        assert {(await reader()).revision for _ in range(5)} == {2}


async def test_after_a_failover_the_new_primary_answers_and_nothing_is_older_than_it_says(pair: Pair) -> None:
    pair.write(1)
    servers = ",".join(f"127.0.0.1:{server.port}" for server in (pair.primary, pair.standby))
    url = pair.primary.url("billing").replace(f"127.0.0.1:{pair.primary.port}", servers)
    async with reading(f"{url}?target_session_attrs=read-write", pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 1)
        await asyncio.to_thread(pair.primary.stop)
        execute(pair.standby.url("billing"), "SELECT pg_promote(wait => true)")
        execute(pair.standby.url("billing"), "UPDATE customers SET revision = 2")
        async with asyncio.timeout(BOUND_S):
            while (await _patiently(reader)).revision != 2:  # noqa: ASYNC110 - each look is a read
                await asyncio.sleep(0)


async def test_without_a_primary_a_replica_is_soon_not_believed_any_more(shared_pair: Pair) -> None:
    """Nobody knows how far it is behind: that the database is away is the answer, rather than one that may be old."""
    pair = shared_pair
    pair.write(9)
    async with reading(pair.primary.url("billing"), pair.standby.url("billing")) as reader:
        await reader.until(lambda answer: answer.facts_time is not None and answer.revision == 9)
        await asyncio.to_thread(pair.primary.stop)
        try:
            with pytest.raises(DatabaseUnavailableError):
                await reader.from_primary()
            await _settled(reader, "takes no beats")
        finally:
            pair.primary.start()  # on this thread, as above
        await reader.from_replica()


async def _patiently(reader: Reader) -> Entitlements:
    """Read as a client does, which tries again while the database is away."""
    while True:
        try:
            return await reader()
        except DatabaseUnavailableError:
            await asyncio.sleep(0)


async def _settled(reader: Reader, why: str) -> None:
    """Wait until the replica is not used for this reason."""
    async with asyncio.timeout(BOUND_S):
        while not any(why in warning for warning in reader.replica.warnings()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
