"""A watch says what is so: not that nothing happened where nobody knows, and nothing that reads do not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime

import psycopg
import pytest

from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows import change_feed, watch_entitlements
from billing_service.flows.look_again import LookAgain
from billing_service.flows.prices import Prices
from billing_service.flows.time_changes import TimeChanges
from billing_service.flows.watch_entitlements import WatchMessage
from billing_service.storage import history
from billing_service.storage.database import Connection
from billing_service.storage.history import LoggedChange, Place
from tests.integration.flows.catalog import CATALOG, CATALOG_TEXT
from tests.integration.flows.conftest import Service, running, value_of
from tests.integration.flows.test_watch import BOUND_S, View, opened, until, watching, whole
from tests.stripe_events import MONTH, START, event, purchase, subscription

HASTY = parse_catalog(CATALOG_TEXT + "\n[plans.pro.policy]\nperiod_end_leeway_hours = 0\n")
SMALLER = parse_catalog(CATALOG_TEXT.replace("projects = 50", "projects = 40"))


async def test_who_cannot_read_the_log_does_not_say_that_nothing_happened_and_sends_watchers_elsewhere(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is cut off from Postgres and another is not. A cache that were told "nothing" would call old answers fresh for ever."""
    monkeypatch.setattr(watch_entitlements, "PROGRESS_S", 0.05)
    monkeypatch.setattr(watch_entitlements, "MOST_DEAF_S", 1.0)
    view, tried = View(), asyncio.Event()

    async def away(_connection: Connection, _place: Place, _most: int) -> Sequence[LoggedChange]:
        tried.set()
        raise DatabaseUnavailableError

    async with watching(database_url, service) as cut_off, opened(cut_off) as stream:
        await until(stream, view, whole)
        with monkeypatch.context() as cut:
            cut.setattr(history, "since", away)
            await tried.wait()
            await service.outcomes(*purchase("ann"))
            with pytest.raises(DatabaseUnavailableError):
                await anext(stream)  # nothing is told before it ends
    async with watching(database_url, service) as other, opened(other, None, view.cursor) as stream:
        await until(stream, view, lambda v: v.plans.get("ann") == ("pro",))
    assert view.snapshots == 1


async def test_a_watch_behind_much_that_is_of_others_goes_on_and_says_nothing_until_it_knows(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database answers, if slowly, and the log is long: nothing is away, and what comes at its end is told."""
    monkeypatch.setattr(watch_entitlements, "PROGRESS_S", 0.05)
    monkeypatch.setattr(watch_entitlements, "MOST_DEAF_S", 0.5)
    monkeypatch.setattr(change_feed, "MOST_READ", 10)
    view, read = View(), history.since

    async def slow(connection: Connection, place: Place, most: int) -> Sequence[LoggedChange] | None:
        await asyncio.sleep(0.02)
        return await read(connection, place, most)

    await service.outcomes(*purchase("ann"))
    async with watching(database_url, service) as behind, opened(behind, ["ann"]) as stream:
        await until(stream, view, whole)
        monkeypatch.setattr(history, "since", slow)
        with psycopg.connect(database_url) as connection:
            connection.execute("""
                WITH others AS (SELECT 'c' || n AS name FROM generate_series(1, 600) AS n),
                made AS (INSERT INTO customers (customer_id) SELECT name FROM others RETURNING customer_id)
                INSERT INTO entitlement_changes (
                    position, customer_id, revision, change_time, cause, cause_id, catalog_version, before, after)
                SELECT nextval('entitlement_position'), name, 1, change_time, cause, cause_id, catalog_version, before, after
                FROM others, (SELECT * FROM entitlement_changes WHERE customer_id = 'ann') AS known, (SELECT count(*) FROM made) AS m
            """)
        service.now = datetime.fromtimestamp(START + 2 * MONTH, UTC)
        await service.outcomes(
            event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 60)
        )
        await until(stream, view, lambda v: v.plans.get("ann") == ("free",))


async def test_what_a_process_with_another_catalog_logs_is_told_as_reads_say_it(
    service: Service, database_url: str
) -> None:
    """A rolling restart: the old process takes a last webhook while somebody watches the new one already, or has just been away."""
    async with (
        running(database_url, SMALLER) as new,
        watching(database_url, new, SMALLER) as watcher,
        opened(watcher) as stream,
    ):
        view, values = View(), dict[str, object]()

        async def heard(customer_id: str, stream: AsyncGenerator[WatchMessage, None]) -> None:
            async with asyncio.timeout(BOUND_S):
                while customer_id not in values:
                    message = await anext(stream)
                    view.take(message)
                    if message.entitlements is not None:
                        told = message.entitlements
                        values[told.customer_id] = (value_of(told, "projects"), told.catalog_version)

        await until(stream, view, whole)
        await service.outcomes(*purchase("ann"))
        await heard("ann", stream)
        cursor = view.cursor
        await service.outcomes(*purchase("bob"))
        await heard("bob", stream)
        del values["bob"], view.revisions["bob"]
        async with opened(watcher, None, cursor) as again:
            await heard("bob", again)
        assert values == dict.fromkeys(("ann", "bob"), (40, SMALLER.version))
        assert [await one.value("bob", "projects") for one in (service, new)] == [50, 40]
    assert view.snapshots == 1


async def test_who_was_written_by_another_catalog_is_looked_at_when_its_last_process_has_gone(
    service: Service, database_url: str
) -> None:
    """Its leeway is a day, and ours is none. Bob has nothing more an hour after his period, and who watches is told, once."""
    async with (
        running(database_url, HASTY) as new,
        watching(database_url, new, HASTY) as watcher,
        opened(watcher) as stream,
    ):
        old = LookAgain(service.database, Prices(service.database, service.stripe, CATALOG), lambda: new.now)
        await old.after_others()
        await watcher.looks.after_catalog()
        await watcher.looks.after_others()
        view = View()
        await until(stream, view, whole)
        await service.outcomes(*purchase("bob"))
        await until(stream, view, lambda v: v.plans.get("bob") == ("pro",))
        new.now = datetime.fromtimestamp(START + MONTH + 3600, UTC)
        assert (await new.read("bob")).plan_keys == ("free",)
        assert await watcher.time_changes.drain() == 0
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "UPDATE derivations SET update_time = now() - interval '1 hour' WHERE name LIKE 'in use%'"
            )
        for drained in (1, 0):
            prices = Prices(new.database, new.stripe, HASTY)
            await LookAgain(new.database, prices, lambda: new.now).after_others()
            assert await TimeChanges(new.database, prices, lambda: new.now).drain() == drained
        await until(stream, view, lambda v: v.plans["bob"] == ("free",))
        assert (await new.read("bob")).revision == view.revisions["bob"]
