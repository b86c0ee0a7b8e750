"""What customers had is kept for its time, whole; what is older is said to be gone, and nobody who follows the log misses a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from billing_service.domain.errors import AsOfNotKeptError
from billing_service.domain.watch_cursor import WatchCursor, scope_of
from billing_service.flows import retention as flow
from billing_service.flows import watch_entitlements
from billing_service.flows.admit_catalog import AdmitCatalog
from billing_service.flows.prices import Prices
from billing_service.flows.read_past import ReadPast
from billing_service.flows.retention import Kept, Removed, Retention
from billing_service.storage import history, history_horizon
from billing_service.storage.database import Connection
from billing_service.storage.history import LoggedChange, Place
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE, Service
from tests.integration.flows.test_watch import BOUND_S, View, Watcher, until, watching, whole
from tests.stripe_events import START, event, subscription

DAY = 86_400
BEGIN = datetime.fromtimestamp(START, UTC)
KEPT = Kept(payloads=timedelta(days=90), events=timedelta(days=400), history=timedelta(days=800))


@pytest.fixture
async def watcher(database_url: str, service: Service) -> AsyncIterator[Watcher]:
    async with watching(database_url, service) as one:
        yield one


async def seats(service: Service, customer_id: str, day: int, quantity: int) -> None:
    """Have a customer's subscription be of so many seats from a day on: a change each time, and none by time in between."""
    service.now = BEGIN + timedelta(days=day)
    body = subscription(
        customer_id, lookup_key="team_monthly", quantity=quantity, start=START + day * DAY, latest_invoice=None
    )
    body["items"]["data"][0]["current_period_end"] = START + 10_000 * DAY
    await service.outcomes(event("customer.subscription.updated", body, created=START + day * DAY))


async def trim(service: Service, day: int) -> Removed:
    """Take out what is due on a day."""
    service.now = BEGIN + timedelta(days=day)
    return await Retention(service.database, KEPT, lambda: service.now).once()


def rows(database_url: str, table: str) -> Sequence[tuple[str, int]]:
    """Give the customers and revisions of what is kept."""
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            psycopg.sql.SQL("SELECT customer_id, revision FROM {} ORDER BY customer_id, revision").format(
                psycopg.sql.Identifier(table)
            )
        ).fetchall()


async def past(service: Service, customer_id: str, time: datetime) -> int:
    """Give the revision that was answered at a time."""
    async with StripeApi("sk_test_x", NOWHERE) as stripe:
        read = ReadPast(service.database, Prices(service.database, stripe, CATALOG), lambda: service.now)
        return (await read(customer_id, time))[0].revision


async def test_what_was_superseded_before_the_time_goes_and_the_newest_stays(
    service: Service, database_url: str
) -> None:
    """Also what is older than the time and still held at its begin: without it nobody could say what held then."""
    for day, customer_id in ((0, "ann"), (0, "bob"), (100, "ann"), (300, "ann")):
        await seats(service, customer_id, day, day + 1)
    assert await trim(service, 899) == Removed()
    assert await trim(service, 901) == Removed(changes=1, facts=1)
    left = [("ann", 2), ("ann", 3), ("bob", 1)]
    assert rows(database_url, "entitlement_changes") == left
    assert rows(database_url, "customer_facts") == left
    assert await trim(service, 5_000) == Removed(changes=1, facts=1)
    assert rows(database_url, "customer_facts") == [("ann", 3), ("bob", 1)]
    assert [(await service.read(name)).revision for name in ("ann", "bob")] == [3, 1]


async def test_the_past_is_answered_back_to_what_is_kept_and_refused_before(service: Service) -> None:
    """At the very moment of the horizon it is whole, and a microsecond before it is not; the error says where it begins."""
    service.now = BEGIN
    await AdmitCatalog(service.database, CATALOG, lambda: service.now)()
    for day in (0, 100, 300):
        await seats(service, "ann", day, day + 1)
    horizon = BEGIN + timedelta(days=100)
    assert await past(service, "ann", horizon - timedelta(microseconds=1)) == 1
    await trim(service, 901)
    moments = (horizon, horizon + timedelta(days=199), BEGIN + timedelta(days=300))
    assert [await past(service, "ann", moment) for moment in moments] == [2, 2, 3]
    for customer_id in ("ann", "nobody"):
        with pytest.raises(AsOfNotKeptError) as raised:
            await past(service, customer_id, horizon - timedelta(microseconds=1))
        assert raised.value.metadata == {"kept_since": horizon.isoformat()}


async def test_a_cursor_older_than_the_trim_starts_over_though_its_change_is_there(
    service: Service, watcher: Watcher
) -> None:
    """The newest change of a customer stays, and changes of others after it are gone: it must not be gone on from."""
    await seats(service, "bob", 0, 1)
    old = View()
    async with aclosing(watcher.watch(None, None)) as stream:
        await until(stream, old, whole)
    for day in (1, 2, 300):
        await seats(service, "ann", day, day + 1)
    recent = View()
    async with aclosing(watcher.watch(None, None)) as stream:
        await until(stream, recent, whole)
    await trim(service, 900)
    await seats(service, "ann", 901, 9)
    for view, snapshots in ((old, 2), (recent, 1)):
        async with aclosing(watcher.watch(None, view.cursor)) as stream:
            await until(stream, view, lambda v: v.revisions.get("ann") == 4 and whole(v))
        assert (view.revisions, view.snapshots) == ({"ann": 4, "bob": 1}, snapshots)


async def test_a_cursor_of_an_empty_log_starts_over_once_something_was_trimmed(
    service: Service, watcher: Watcher
) -> None:
    for day in (0, 1):
        await seats(service, "ann", day, day + 1)
    await trim(service, 900)
    version = CATALOG.version
    view = View()
    async with aclosing(watcher.watch(None, WatchCursor(0, 0, scope_of(None), version).encode())) as stream:
        await until(stream, view, whole)
    assert view.snapshots == 1


async def test_a_trim_while_somebody_catches_up_has_him_start_over(
    service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pages of the log that he reads: what he would have read next is gone."""
    monkeypatch.setattr(watch_entitlements, "CATCH_UP_PAGE", 1)
    view = View()
    async with aclosing(watcher.watch(None, None)) as stream:
        await until(stream, view, whole)
    for day in range(4):
        await seats(service, "ann", day, day + 1)
    async with asyncio.timeout(BOUND_S):
        while watcher.feed.place.position < 4:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.01)
    since = history.since
    asked = []

    async def late(connection: Connection, place: Place, most: int) -> Sequence[LoggedChange] | None:
        asked.append(most)
        if asked.count(1) == 2:
            await trim(service, 900)
        return await since(connection, place, most)

    monkeypatch.setattr(history, "since", late)
    async with aclosing(watcher.watch(None, view.cursor)) as stream:
        await until(stream, view, lambda v: v.snapshots == 2 and whole(v))
    assert view.revisions == {"ann": 4}


async def test_trimming_writing_and_following_at_once_lose_nothing(
    service: Service, watcher: Watcher, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small steps, by two processes at once, while changes are written; View fails on a gap or a repeat."""
    monkeypatch.setattr(history_horizon, "BATCH", 3)
    monkeypatch.setattr(flow, "PAUSE_S", 0.0)
    names = [f"guest{number}" for number in range(5)]
    view = View()
    async with aclosing(watcher.watch(None, None)) as stream:
        await until(stream, view, whole)
        for day in range(12):
            await asyncio.gather(
                *(seats(service, name, day * 100, day + 1) for name in names),
                *(Retention(service.database, KEPT, lambda: service.now).once() for _ in range(2)),
            )
        await until(stream, view, lambda v: set(v.revisions.values()) == {12})
        assert view.snapshots == 1
    for _ in range(2):
        await trim(service, 1_100)
    assert rows(database_url, "customer_facts") == [
        (name, revision) for name in sorted(names) for revision in range(4, 13)
    ]
    assert rows(database_url, "entitlement_changes") == rows(database_url, "customer_facts")


async def test_what_is_due_is_looked_up_by_its_age(service: Service, database_url: str) -> None:
    """A round costs what became due since the last one, not what is kept."""
    await seats(service, "ann", 0, 1)
    with psycopg.connect(database_url) as connection:
        connection.execute("SET enable_seqscan = off")
        for statement, index in (
            (history_horizon._TRIM_CHANGES, "entitlement_changes_position_key"),
            (history_horizon._TRIM_FACTS, "customer_facts_change_time_idx"),
        ):
            text = statement.text
            for name, value in ((":position", "0"), (":most", "500"), (":before", "now()"), (":time", "now()")):
                text = text.replace(name, value)
            plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + text).fetchall())
            assert index in plan
