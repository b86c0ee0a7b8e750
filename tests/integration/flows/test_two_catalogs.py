"""A rolling restart with another catalog: random lives, processes of both, watches that come back to either, connections cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import psycopg
import pytest

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows import look_again, time_changes, watch_entitlements
from billing_service.flows.watch_entitlements import WatchMessage
from tests.integration.flows.catalog import CATALOG, CATALOG_TEXT
from tests.integration.flows.conftest import Service, running
from tests.integration.flows.test_watch import View, Watcher, watching
from tests.stripe_events import START, event, export_pass, invoice, refund, subscription

BOUND_S = 60
DAY = 86_400
NAMES = [f"guest{number:02}" for number in range(20)]
NEWER = parse_catalog(
    CATALOG_TEXT.replace("projects = 50", "projects = 40")
    + """
[plans.pro.policy]
period_end_leeway_hours = 0
past_due_grace_days = 1
[plans.export_pass.policy]
partial_refund_revokes = true
[plans.max]
name = "Max"
mode = "subscription"
features = { seats = 9 }
prices = [{ key = "monthly", lookup_key = "max_monthly" }]
"""
)


def shown(told: Entitlements) -> tuple[object, ...]:
    """Give what a caller can tell apart."""
    values = tuple((one.feature_key, one.value) for one in told.entitlements)
    return told.revision, told.plan_keys, values, tuple((one.stripe_id, one.state) for one in told.sources)


class Whole(View):
    """A view that keeps the whole answers too."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, tuple[object, ...]] = {}

    def take(self, message: WatchMessage) -> None:
        """Apply one message."""
        super().take(message)
        if message.entitlements is not None:
            self.answers[message.entitlements.customer_id] = shown(message.entitlements)


@dataclass
class Life:
    """A customer, as Stripe has them."""

    name: str
    draw: Random
    turn: int = 0
    status: str = "canceled"
    price: str = ""
    sub_id: str = ""
    start: int = START
    invoice_id: str = ""

    def next(self, now: int) -> list[bytes]:
        """Let something happen; give its events."""
        self.turn += 1
        if self.status == "canceled":
            if self.draw.random() < 0.3:
                return [event("checkout.session.completed", export_pass(self.name), created=now)]
            self.price = self.draw.choice(["pro_monthly", "team_monthly", "max_monthly"])
            self.sub_id = f"sub_{self.name}_{self.turn}"
            return self._paid(now, "customer.subscription.created")
        return self.draw.choice([self._fail, self._paid, self._cancel, self._ending, self._refund])(now)

    def _paid(self, now: int, kind: str = "customer.subscription.updated") -> list[bytes]:
        self.status, self.start, self.invoice_id = "active", now, f"in_{self.name}_{self.turn}"
        return [self._invoice("invoice.paid", "paid", now), self._subscription(kind, now)]

    def _fail(self, now: int) -> list[bytes]:
        self.status, self.invoice_id = "past_due", f"in_{self.name}_{self.turn}"
        return [
            self._invoice("invoice.payment_failed", "open", now),
            self._subscription("customer.subscription.updated", now),
        ]

    def _cancel(self, now: int) -> list[bytes]:
        self.status = "canceled"
        return [self._subscription("customer.subscription.deleted", now, ended_at=now)]

    def _ending(self, now: int) -> list[bytes]:
        return [self._subscription("customer.subscription.updated", now, cancel_at=now + 5 * DAY)]

    def _refund(self, now: int) -> list[bytes]:
        return [event("refund.created", refund(self.name, self.draw.choice([2_500, 700])), created=now)]

    def _subscription(self, kind: str, now: int, **more: object) -> bytes:
        known: dict[str, Any] = {"id": self.sub_id, "latest_invoice": self.invoice_id, **more}
        body = subscription(self.name, self.status, lookup_key=self.price, start=self.start, **known)
        return event(kind, body, created=now)

    def _invoice(self, kind: str, status: str, now: int) -> bytes:
        body = invoice(self.name, status, id=self.invoice_id, created=now)
        body["parent"]["subscription_details"]["subscription"] = self.sub_id
        return event(kind, body, created=now)


@dataclass(eq=False)
class Process:
    """One process of a release."""

    service: Service
    watcher: Watcher
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Deployment:
    """The processes that there are, by release, under one clock."""

    def __init__(self, database_url: str, draw: Random) -> None:
        self._url, self._draw = database_url, draw
        self.now = START + 60
        self.running: dict[str, list[Process]] = {"old": [], "new": []}

    @asynccontextmanager
    async def process(self, release: str, catalog: Catalog) -> AsyncIterator[Process]:
        """Run one more."""
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(running(self._url, catalog))
            watcher = await stack.enter_async_context(watching(self._url, service, catalog))
            one = Process(service, watcher)
            service.now = datetime.fromtimestamp(self.now, UTC)
            work = [asyncio.create_task(run()) for run in (watcher.time_changes.run, watcher.looks.run)]
            self.running[release].append(one)
            try:
                yield one
            finally:
                self.running[release].remove(one)
                one.ended.set()
                for task in work:
                    task.cancel()
                await asyncio.wait(work)

    async def live(self, lives: list[Life], rounds: int) -> None:
        """Let things happen, each heard of by any process in any order; and time pass, and connections break."""
        for _ in range(rounds):
            bodies = [body for life in self._draw.sample(lives, k=6) for body in self._heard(life)]
            await asyncio.gather(*(self._deliver(body) for body in bodies))
            if self._draw.random() < 0.3:
                self.advance(self._draw.choice([3_600, DAY, 3 * DAY, 8 * DAY]))
            if self._draw.random() < 0.2:
                await asyncio.to_thread(self._cut)

    def advance(self, time_s: int) -> None:
        """Let time pass, everywhere at once."""
        self.now += time_s
        for one in (*self.running["old"], *self.running["new"]):
            one.service.now = datetime.fromtimestamp(self.now, UTC)

    def _heard(self, life: Life) -> list[bytes]:
        self.advance(1)
        bodies = life.next(self.now)
        self._draw.shuffle(bodies)
        return bodies

    async def _deliver(self, body: bytes) -> None:
        async with asyncio.timeout(BOUND_S):
            while True:
                with suppress(DatabaseUnavailableError):
                    await self._draw.choice([*self.running["old"], *self.running["new"]]).service.outcomes(body)
                    return

    def _cut(self) -> None:
        with psycopg.connect(self._url) as connection:
            connection.execute("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5
            """)

    async def follow(self, release: str, view: Whole, draw: Random) -> None:
        """Watch everybody on one process of a release after the other, each time from the cursor, for ever."""
        while True:
            if not self.running[release]:
                await asyncio.sleep(0.02)  # until there is one
                continue
            one = draw.choice(self.running[release])
            view.cursor = None if view.in_snapshot else view.cursor
            with suppress(DatabaseUnavailableError):
                async with aclosing(one.watcher.watch(None, view.cursor)) as stream:
                    await self._take(stream.__anext__, view, one.ended, draw.choice([3, 10, 40, 1_000]))

    async def _take(self, following: Callable[[], object], view: Whole, ended: asyncio.Event, most: int) -> None:
        ending = asyncio.ensure_future(ended.wait())
        try:
            for _ in range(most):
                coming = asyncio.ensure_future(following())  # type: ignore[call-overload] # an awaitable
                try:
                    await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    coming.cancel()
                    await asyncio.wait({coming})
                if coming.cancelled():
                    return
                view.take(coming.result())
        finally:
            ending.cancel()

    async def until_settled(self) -> None:
        """Wait until the old release was noticed to have gone, everybody was looked at, and nothing is due."""
        left = """
            SELECT (SELECT count(*) FROM customers WHERE next_change_time <= to_timestamp(%s))
                 + (SELECT count(*) FROM derivations WHERE starts_with(name, 'look: ') OR starts_with(name, 'in use: ' || %s))
        """

        def count() -> int:
            with psycopg.connect(self._url) as connection:
                row = connection.execute(left, [self.now, CATALOG.version]).fetchone()
            return int(row[0]) if row else -1

        async with asyncio.timeout(BOUND_S):
            while await asyncio.to_thread(count):  # noqa: ASYNC110 - of the database
                await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_every_watch_has_what_reads_say_when_the_old_catalog_has_gone(
    database_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """No revision is missing, none comes twice, and a cursor is gone on from on either process of its release."""
    monkeypatch.setattr(look_again, "PAUSE_S", 0.05)
    monkeypatch.setattr(look_again, "BEAT_S", 0.1)
    monkeypatch.setattr(look_again, "SILENT_S", 2.0)
    monkeypatch.setattr(look_again, "MOST", 5)
    monkeypatch.setattr(time_changes, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(watch_entitlements, "PAGE", 7)
    draw = Random(seed)
    lives = [Life(name, Random(f"{seed} {name}")) for name in NAMES]
    site, views = Deployment(database_url, draw), {"old": Whole(), "new": Whole()}
    async with AsyncExitStack() as olds, AsyncExitStack() as news:
        follows = [asyncio.create_task(site.follow(one, view, Random(one))) for one, view in views.items()]
        for _ in range(2):
            await olds.enter_async_context(site.process("old", CATALOG))
        await site.live(lives, 5)
        new = await news.enter_async_context(site.process("new", NEWER))
        await site.live(lives, 10)
        await olds.aclose()
        await news.enter_async_context(site.process("new", NEWER))
        await site.live(lives, 5)
        await site.until_settled()
        async with asyncio.timeout(BOUND_S):
            while not await agrees(new.service, views["new"]) and not any(one.done() for one in follows):  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.05)
        for one in follows:
            one.cancel()
        await asyncio.wait(follows)
        assert not [one for one in follows if not one.cancelled() and one.exception()]
        assert views["new"].snapshots < len(views["new"].causes)


async def agrees(service: Service, view: Whole) -> bool:
    """Say whether a view has of everybody what reads say; of whom it never heard, there is nothing to tell."""
    for name in NAMES:
        read = shown(await service.read(name))
        if view.answers.get(name, read if read[0] == 0 else None) != read:
            return False
    return True
