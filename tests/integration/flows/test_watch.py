"""Watches: a snapshot, then each revision once and in order, across reconnects, processes and restored databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest

from billing_service.domain.catalog import Catalog
from billing_service.domain.errors import DatabaseUnavailableError, InvalidFieldsError, WatcherTooSlowError
from billing_service.domain.watch_cursor import WatchCursor
from billing_service.flows import change_feed, watch_entitlements
from billing_service.flows.change_feed import ChangeFeed
from billing_service.flows.look_again import LookAgain
from billing_service.flows.prices import Prices
from billing_service.flows.retell import Retell
from billing_service.flows.time_changes import TimeChanges
from billing_service.flows.watch_entitlements import WatchEntitlements, WatchKind, WatchMessage
from billing_service.storage import history, listener
from billing_service.storage.database import Connection, Database
from billing_service.storage.history import Place
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE, Service
from tests.stripe_events import MONTH, START, event, invoice, purchase, subscription

BOUND_S = 20  # for anything that a test waits for; far beyond what it takes
DAY = 86_400


@dataclass
class Watcher:
    """One process's watching."""

    feed: ChangeFeed
    watch: WatchEntitlements
    time_changes: TimeChanges
    looks: LookAgain


@asynccontextmanager
async def watching(database_url: str, service: Service, catalog: Catalog = CATALOG) -> AsyncIterator[Watcher]:
    """Run the feed as a process does, with the clock of a service."""
    async with AsyncExitStack() as stack:
        database = Database(database_url)
        stack.push_async_callback(database.close)
        stripe = await stack.enter_async_context(StripeApi("sk_test_x", NOWHERE))
        prices = Prices(database, stripe, catalog)
        feed = ChangeFeed(database, database_url, Retell(database, prices, lambda: service.now))
        running = asyncio.create_task(feed.run())
        stack.push_async_callback(ended, running)
        yield Watcher(
            feed,
            WatchEntitlements(database, prices, feed, lambda: service.now),
            TimeChanges(database, prices, lambda: service.now),
            LookAgain(database, prices, lambda: service.now),
        )


async def ended(running: asyncio.Task[None]) -> None:
    """End the feed. A defect of it is the test's."""
    if running.done():
        running.result()
    running.cancel()
    await asyncio.wait({running})


@pytest.fixture
async def watcher(database_url: str, service: Service) -> AsyncIterator[Watcher]:
    async with watching(database_url, service) as one:
        yield one


class View:
    """What a caller knows: applied as the contract says, and strict about gaps and repeats."""

    def __init__(self) -> None:
        self.revisions: dict[str, int] = {}
        self.plans: dict[str, tuple[str, ...]] = {}
        self.causes: list[str] = []
        self.cursor: str | None = None
        self.snapshots = 0
        self.in_snapshot = False

    def take(self, message: WatchMessage) -> None:
        """Apply one message."""
        if message.kind is WatchKind.SNAPSHOT_BEGIN:
            self.revisions.clear()
            self.plans.clear()
            self.snapshots += 1
            self.in_snapshot = True
        if message.kind is WatchKind.SNAPSHOT_END:
            self.in_snapshot = False
        told = message.entitlements
        if told is not None:
            if message.kind is WatchKind.CHANGE:
                assert message.cause is not None
                self.causes.append(message.cause.value)
                known = self.revisions.get(told.customer_id, 0)
                assert told.revision == known + 1, f"{told.customer_id}: {known} -> {told.revision}"
            self.revisions[told.customer_id] = told.revision
            self.plans[told.customer_id] = told.plan_keys
        self.cursor = message.cursor or self.cursor


@asynccontextmanager
async def opened(
    watcher: Watcher, customer_ids: Collection[str] | None = None, cursor: str | None = None
) -> AsyncIterator[AsyncGenerator[WatchMessage, None]]:
    """Open a watch, and close it at the end."""
    stream = watcher.watch(customer_ids, cursor)
    try:
        yield stream
    finally:
        await stream.aclose()


async def until(stream: AsyncGenerator[WatchMessage, None], view: View, holds: Any) -> None:
    """Take messages until something holds of the view."""
    async with asyncio.timeout(BOUND_S):
        while not holds(view):
            view.take(await anext(stream))


def whole(view: View) -> bool:
    return view.snapshots > 0 and not view.in_snapshot


async def test_what_changed_while_nobody_watched_is_not_waited_for(
    service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is not read then. Who comes first has it read at once, and not when the next change is told."""
    monkeypatch.setattr(change_feed, "POLL_S", 10 * BOUND_S)
    async with opened(watcher) as stream:
        await until(stream, View(), whole)  # from here on the feed rests for as long as nobody tells it anything
    await service.outcomes(*purchase("ann"))
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, whole)
    assert view.plans == {"ann": ("pro",)}


async def test_nobody_listens_while_nobody_watches(
    watcher: Watcher, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection that listens is woken by each commit."""
    monkeypatch.setattr(listener, "LOOK_S", 0.05)
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"

    async def listening(count: int) -> None:
        async with asyncio.timeout(BOUND_S):
            while seen() != count:  # noqa: ASYNC110 - of the database
                await asyncio.sleep(0.02)

    def seen() -> int:
        with psycopg.connect(database_url) as connection:
            row = connection.execute(asked).fetchone()
        return int(row[0]) if row else 0

    await listening(0)
    for _ in range(2):
        async with opened(watcher) as stream:
            await until(stream, View(), whole)
            await listening(1)
        await listening(0)


async def test_a_listener_that_nobody_wants_does_not_connect(database_url: str) -> None:
    """It would connect again and again, and say each time that it may have missed something."""
    wanted, heard = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(listener.listen(database_url, history.CHANNEL, heard.set, wanted))
    async with await psycopg.AsyncConnection.connect(database_url) as other:  # it takes as long as the listener's would
        for _ in range(20):
            await other.execute("SELECT 1")
    assert not heard.is_set()
    wanted.set()
    async with asyncio.timeout(BOUND_S):
        await heard.wait()
    task.cancel()
    await asyncio.wait({task})


async def test_a_watch_that_could_not_begin_is_not_counted(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    async def subscribe(_customer_ids: object) -> None:
        raise DatabaseUnavailableError

    monkeypatch.setattr(watcher.feed, "subscribe", subscribe)
    for _ in range(3):
        async with opened(watcher) as stream:
            with pytest.raises(DatabaseUnavailableError):
                await anext(stream)
    assert watcher.watch.watches == 0


async def test_a_snapshot_then_each_change_with_its_cause(service: Service, watcher: Watcher) -> None:
    await service.outcomes(*purchase("ann"))
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, whole)
        assert view.plans == {"ann": ("pro",)}
        await service.outcomes(*purchase("bob"))
        await until(stream, view, lambda v: v.plans.get("bob") == ("pro",))
        over = event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 9)
        await service.outcomes(over)
        await until(stream, view, lambda v: v.plans["ann"] == ("free",))
    assert set(view.causes) == {"event"}


async def test_who_names_customers_hears_of_them_alone_known_or_not(service: Service, watcher: Watcher) -> None:
    view = View()
    async with opened(watcher, ["ann", "nobody"]) as stream:
        await until(stream, view, whole)
        assert view.plans == {"ann": ("free",), "nobody": ("free",)}
        await service.outcomes(*purchase("bob"), *purchase("ann"))
        await until(stream, view, lambda v: v.plans["ann"] == ("pro",))
    assert "bob" not in view.plans


async def test_a_watch_goes_on_from_its_cursor_without_gap_or_repeat(
    service: Service, watcher: Watcher, database_url: str
) -> None:
    """On another process, after changes that nobody heard; View fails on a gap or a repeat."""
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, whole)
        await service.outcomes(*purchase("ann"))
        await until(stream, view, lambda v: v.plans.get("ann") == ("pro",))
    await service.outcomes(*purchase("bob"))
    await service.outcomes(event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 9))
    async with watching(database_url, service) as other, opened(other, None, view.cursor) as stream:
        await until(stream, view, lambda v: v.plans.get("bob") == ("pro",) and v.plans["ann"] == ("free",))
    assert view.snapshots == 1


async def test_changes_during_a_long_snapshot_come_once_each(
    service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of one customer, with a change between any two of them: before, on and behind the page."""
    monkeypatch.setattr(watch_entitlements, "PAGE", 1)
    names = [f"guest{number}" for number in range(9)]
    for name in names:
        await service.outcomes(*purchase(name))
    view, draw = View(), Random(1)
    left = draw.sample(names, k=len(names))
    async with opened(watcher) as stream:
        while left:
            view.take(await anext(stream))
            over = event("customer.subscription.deleted", subscription(left.pop(), "canceled"), created=START + 9)
            await service.outcomes(over)
        await until(stream, view, lambda v: whole(v) and set(v.plans.values()) == {("free",)})
    assert view.plans.keys() == set(names)


async def test_positions_become_visible_in_their_order(
    service: Service, other_service: Service, watcher: Watcher
) -> None:
    """Two processes write as fast as they can; a plain sequence would show a later position before an earlier one."""
    view = View()
    names = [f"guest{number}" for number in range(60)]
    async with opened(watcher) as stream:
        await until(stream, view, whole)
        calls = [
            (service if number % 2 else other_service).outcomes(body)
            for number, name in enumerate(names)
            for body in purchase(name)
        ]
        await asyncio.gather(*calls)
        await until(stream, view, lambda v: len(v.plans) == len(names) and set(v.plans.values()) == {("pro",)})


async def test_time_alone_changes_what_is_told_and_is_in_the_log(
    service: Service, watcher: Watcher, database_url: str
) -> None:
    """A grace that ends: a revision of its own, with the state before and after; reads were right without it."""
    await service.outcomes(*purchase("ann"))
    failed_at = START + MONTH
    service.now = datetime.fromtimestamp(failed_at + 60, UTC)
    await service.outcomes(
        event("invoice.payment_failed", invoice("ann", "open", id="in_2"), created=failed_at),
        event(
            "customer.subscription.updated", subscription("ann", "past_due", latest_invoice="in_2"), created=failed_at
        ),
    )
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, whole)
        assert view.plans["ann"] == ("pro",)
        assert await watcher.time_changes.drain() == 0
        service.now += timedelta(days=8)
        assert (await service.read("ann")).plan_keys == ("free",)
        assert await watcher.time_changes.drain() == 1
        await until(stream, view, lambda v: v.plans["ann"] == ("free",))
    assert view.causes[-1] == "time"
    assert await watcher.time_changes.drain() == 0
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT cause, before ->> 'plan_keys', after ->> 'plan_keys', change_time FROM entitlement_changes"
            " ORDER BY position DESC LIMIT 1"
        ).fetchone()
    assert row == ("time", '["pro"]', '["free"]', service.now)


async def test_two_processes_log_what_time_changes_once(service: Service, watcher: Watcher, database_url: str) -> None:
    names = [f"guest{number}" for number in range(30)]
    for name in names:
        await service.outcomes(*purchase(name))
    before = {name: (await service.read(name)).revision for name in names}
    service.now += timedelta(days=40)
    async with watching(database_url, service) as other:
        await asyncio.gather(*(one.time_changes.drain() for one in (watcher, other) * 4))
    assert {name: (await service.read(name)).revision - before[name] for name in names} == dict.fromkeys(names, 1)


async def test_a_changed_catalog_has_everybody_looked_at_again_once(
    service: Service, watcher: Watcher, database_url: str
) -> None:
    await service.outcomes(*purchase("ann"))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE customers SET next_change_time = now() + interval '99 years'")
        connection.execute("INSERT INTO derivations (name, version) VALUES ('next_change_time', 'of before')")
    await watcher.looks.after_catalog()
    assert await watcher.time_changes.drain() == 1
    await watcher.looks.after_catalog()
    assert await watcher.time_changes.drain() == 0
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT next_change_time < now() + interval '1 year' FROM customers").fetchall()
    assert rows == [(True,)]
    assert (await service.read("ann")).revision == 1


@pytest.mark.parametrize(("bound", "most"), [("MOST_WAITING", 5), ("MOST_WAITING_BYTES", 2_500)])
async def test_a_reader_who_is_too_slow_is_told_and_holds_nobody_up(
    service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Whether too many changes wait for him or too large ones: eight of 600 bytes here."""
    monkeypatch.setattr(change_feed, bound, most)
    slow, quick = View(), View()
    async with opened(watcher) as asleep, opened(watcher) as awake:
        await until(asleep, slow, whole)
        await until(awake, quick, whole)
        for number in range(8):
            await service.outcomes(*purchase(f"guest{number}"))
            await until(awake, quick, lambda v, number=number: f"guest{number}" in v.plans)
        with pytest.raises(WatcherTooSlowError):
            await until(asleep, slow, lambda _: False)
    async with opened(watcher, None, slow.cursor) as stream:
        await until(stream, slow, lambda v: len(v.plans) == 8)
    assert slow.snapshots == 1


async def test_a_change_that_is_larger_than_what_may_wait_is_told_when_nothing_else_waits(
    service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could come past it otherwise; and what was told takes no room any more."""
    monkeypatch.setattr(change_feed, "MOST_WAITING_BYTES", 1)
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, whole)
        for name in ("ann", "bob"):
            await service.outcomes(*purchase(name))
            await until(stream, view, lambda v, name=name: name in v.plans)


async def test_a_restored_database_is_told_with_a_new_snapshot(
    service: Service, watcher: Watcher, database_url: str
) -> None:
    """It gives positions out again; the change at a cursor's position is another one then, and what it hides is not skipped."""
    await service.outcomes(*purchase("ann"))
    old, live = View(), View()
    async with opened(watcher) as stream:
        await until(stream, live, whole)
        async with opened(watcher) as other:
            await until(other, old, whole)
        with psycopg.connect(
            database_url
        ) as connection:  # as a restore would: the last commits are gone, others take their place
            connection.execute("UPDATE entitlement_changes SET change_time = change_time - interval '1 hour'")
        await service.outcomes(*purchase("bob"))
        await until(stream, live, lambda v: v.snapshots == 2 and whole(v))
        assert live.plans == {"ann": ("pro",), "bob": ("pro",)}
    async with opened(watcher, None, old.cursor) as stream:
        await until(stream, old, lambda v: v.snapshots == 2 and whole(v))
    assert old.plans == live.plans


@pytest.mark.parametrize("change", ["trimmed", "catalog", "customers"])
async def test_a_cursor_that_cannot_be_gone_on_from_gets_a_snapshot(
    service: Service, watcher: Watcher, database_url: str, change: str
) -> None:
    view = View()
    await service.outcomes(*purchase("ann"))
    async with opened(watcher) as stream:
        await until(stream, view, whole)
    assert view.cursor is not None
    cursor, ids = view.cursor, None
    if change == "trimmed":
        with psycopg.connect(database_url) as connection:
            connection.execute("DELETE FROM entitlement_changes")
    elif change == "catalog":
        known = WatchCursor.decode(cursor)
        cursor = WatchCursor(known.position, known.stamp, known.scope, "another").encode()
    else:
        ids = ["ann"]
    async with opened(watcher, ids, cursor) as stream:
        await until(stream, view, lambda v: v.snapshots == 2 and whole(v))
    assert view.plans == {"ann": ("pro",)}


@pytest.mark.parametrize("cursor", ["x", "eyJhIjoxfQ", "W10", "=" * 40, "é"])
async def test_what_is_no_cursor_is_refused(watcher: Watcher, cursor: str) -> None:
    with pytest.raises(InvalidFieldsError):
        await anext(watcher.watch(None, cursor))


async def test_a_quiet_watch_moves_its_cursor(
    service: Service, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes of others move it on, so that coming back is cheap."""
    monkeypatch.setattr(watch_entitlements, "PROGRESS_S", 0.05)
    view = View()
    async with opened(watcher, ["ann"]) as stream:
        await until(stream, view, whole)
        first = view.cursor
        await service.outcomes(*purchase("bob"))
        await until(stream, view, lambda v: v.cursor != first)
    assert view.causes == []


async def test_a_watch_that_is_opened_while_the_feed_begins_misses_nothing(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed's first look at the log comes back after a change that the snapshot does not hold."""
    looked, go = asyncio.Event(), asyncio.Event()
    tip = history.tip

    async def late(connection: Connection) -> Place:
        if not looked.is_set():
            looked.set()
            await go.wait()
        return await tip(connection)

    monkeypatch.setattr(history, "tip", late)
    async with watching(database_url, service) as watcher, opened(watcher) as stream:
        view = View()
        await looked.wait()  # the feed is on its way
        opening = asyncio.create_task(until(stream, view, lambda v: v.plans.get("ann") == ("pro",)))
        await asyncio.sleep(0)
        await service.outcomes(*purchase("ann"))
        go.set()
        await opening


async def test_who_is_new_while_the_last_page_is_told_is_not_missed(service: Service, watcher: Watcher) -> None:
    """Somebody who stands behind everybody on the last page, whose first change comes after it was read."""
    await service.outcomes(*purchase("ann"))
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, lambda v: "ann" in v.plans)  # the page was read, and is being told
        position = watcher.feed.place.position
        await service.outcomes(*purchase("zoe"))
        async with asyncio.timeout(BOUND_S):
            while watcher.feed.place.position == position:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
        await until(stream, view, lambda v: whole(v) and v.plans.get("zoe") == ("pro",))


async def test_the_end_of_a_snapshot_is_gone_on_from_without_repeat(service: Service, watcher: Watcher) -> None:
    """A change that comes while the last page is told is told within the snapshot; its end's cursor is behind it."""
    await service.outcomes(*purchase("ann"))
    view = View()
    async with opened(watcher) as stream:
        await until(stream, view, lambda v: "ann" in v.plans)  # the page was read, and is being told
        await service.outcomes(
            event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 9)
        )
        tip = await service.database.run(history.tip)
        async with asyncio.timeout(BOUND_S):
            while watcher.feed.place != tip:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
        await until(stream, view, whole)
    assert view.plans == {"ann": ("free",)}
    async with opened(watcher, None, view.cursor) as stream:
        await service.outcomes(*purchase("bob"))
        await until(stream, view, lambda v: "bob" in v.plans)  # View fails on a repeat
    assert view.snapshots == 1
