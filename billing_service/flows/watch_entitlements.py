"""Tells what customers may use, and each change: a snapshot, then the log, without gap or repeat across reconnects.

Each page of the snapshot is read together with the tip of the log, in one view of the database: so it holds exactly the changes up
to there, and those after it are told. A cursor names the change up to which everything was told; where that change is not in
the log any more (it was trimmed, or the database restored), or the catalog is another one, the answer is a new snapshot.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import chain

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.errors import DatabaseUnavailableError, FieldViolation, InvalidFieldsError, OverloadedError
from billing_service.domain.facts import NO_FACTS
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.watch_cursor import CursorError, WatchCursor, scope_of
from billing_service.flows.change_feed import ChangeFeed, Subscription
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.prices import Prices
from billing_service.flows.retell import Retell
from billing_service.storage import customers, history
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database
from billing_service.storage.history import BEGINNING, CauseKind, LoggedChange, Place

PAGE = 200  # customers of a snapshot in one go
MOST_CAUGHT_UP = 20_000  # changes that are told one by one to who comes back; for more a snapshot is shorter
CATCH_UP_PAGE = 500
MOST_WATCHES = 2_000  # in one process
PROGRESS_S = 15.0
LOOK_S = 0.25  # where progress is due, and the feed has not read the log since
# A watch ends where the feed could not read the log for as long: with a progress before it, far below the 40 s after which caches call
# what they have stale, so that they go to another process in time.
MOST_DEAF_S = 10.0


ChangeCause = CauseKind


class WatchKind(StrEnum):
    """What a message says; the contract's WatchEntitlementsResponse.Kind."""

    SNAPSHOT_BEGIN = "snapshot_begin"
    SNAPSHOT = "snapshot"
    SNAPSHOT_END = "snapshot_end"
    CHANGE = "change"
    PROGRESS = "progress"


@dataclass(frozen=True)
class WatchMessage:
    """One message of a watch."""

    kind: WatchKind
    entitlements: Entitlements | None = None
    cause: CauseKind | None = None
    change_time: datetime | None = None
    cursor: str | None = None


@dataclass
class _Pages:
    """Up to where in the log each page of a snapshot is, by the last customer on it."""

    ends: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    told: Place = BEGINNING  # the last change that was handed over while the last page was told

    @property
    def end(self) -> Place:
        """Up to where everything was told."""
        return max(self.told, self.places[-1], key=lambda place: place.position)

    def has(self, change: LoggedChange) -> bool:
        """Say whether a change is in the snapshot already."""
        index = bisect_left(self.ends, change.customer_id)
        place = self.places[min(index, len(self.places) - 1)]
        return change.position <= place.position


class WatchEntitlements:
    """Watches customers of this process's database."""

    def __init__(self, database: Database, prices: Prices, feed: ChangeFeed, now: Callable[[], datetime]) -> None:
        """`feed` must be running; `now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._feed = feed
        self._now = now
        self._retell = Retell(database, prices, now)
        self._watches = 0

    async def __call__(
        self, customer_ids: Collection[str] | None, cursor: str | None
    ) -> AsyncGenerator[WatchMessage, None]:
        """Tell of these customers, or of all, for as long as the caller listens.

        Raises:
            InvalidFieldsError: the cursor is none of ours.
            OverloadedError: too many watch already.
            WatcherTooSlowError: the caller takes messages more slowly than changes come.
            DatabaseUnavailableError: it does not answer, so that nobody here knows what happened.
        """
        place = self._place_of(cursor, scope_of(customer_ids))
        if self._watches >= MOST_WATCHES:
            raise OverloadedError
        self._watches += 1
        subscription = None
        try:
            subscription = await self._feed.subscribe(customer_ids)
            async for message in self._watch(subscription, place, scope_of(customer_ids)):
                yield message
        finally:
            self._watches -= 1
            if subscription is not None:
                self._feed.unsubscribe(subscription)

    @property
    def watches(self) -> int:
        """How many watch now."""
        return self._watches

    def _place_of(self, cursor: str | None, scope: str) -> Place | None:
        """Give where to go on, or None for a snapshot: there is no cursor, or it is of other customers or another catalog."""
        if not cursor:
            return None
        try:
            known = WatchCursor.decode(cursor)
        except CursorError:
            violation = FieldViolation("cursor", "must be the last cursor that was received, or empty")
            raise InvalidFieldsError([violation]) from None
        same = (known.scope, known.catalog_version) == (scope, self._prices.index.catalog.version)
        return Place(known.position, known.stamp) if same else None

    async def _watch(self, one: Subscription, place: Place | None, scope: str) -> AsyncGenerator[WatchMessage, None]:
        if place is None or not await self._goes_on(place):
            pages = _Pages()
            async for message in self._snapshot(one, pages):
                yield message
            place = pages.end
            for change in await self._until(one, place):
                if not pages.has(change):
                    yield self._changed(change, None)
            yield WatchMessage(WatchKind.SNAPSHOT_END, cursor=self._cursor(place, scope))
        async for message in self._live(one, place, scope):
            yield message

    async def _goes_on(self, place: Place) -> bool:
        """Say whether the log goes on from a place, and not for too long to be told one by one."""
        found = await self._database.run(lambda c: history.since(c, place, 0))
        return found is not None and self._feed.place.position - place.position <= MOST_CAUGHT_UP

    async def _snapshot(self, one: Subscription, pages: _Pages) -> AsyncGenerator[WatchMessage, None]:
        """Tell of everybody, page by page; and in between of what changed on the pages that were told.

        What is handed over for a page that is still to come will be on it: it is read after the feed saw the change.
        """
        yield WatchMessage(WatchKind.SNAPSHOT_BEGIN)
        ids, after = one.customer_ids, ""
        unseen = set(ids or ())
        plans = await self._prices.plans()
        while True:
            rows, place, plans = await self._page(ids, after, plans)
            for row in rows:
                unseen.discard(row.customer_id)
                yield WatchMessage(WatchKind.SNAPSHOT, self._folded(row, plans))
            after = rows[-1].customer_id if rows else after
            pages.ends.append(after)
            pages.places.append(place)
            is_last = len(rows) < PAGE  # nobody is on a page after it: it reaches to the end
            for change in one.take():
                pages.told = change.place
                if (is_last or change.customer_id <= after) and not pages.has(change):
                    unseen.discard(change.customer_id)
                    yield self._changed(change, None)
            if is_last:
                break
        for customer_id in sorted(unseen):  # nobody we know: they have the default plan
            yield WatchMessage(WatchKind.SNAPSHOT, self._folded(CustomerRow(customer_id, 0, NO_FACTS), plans))

    async def _page(
        self, ids: Collection[str] | None, after: str, plans: PlanIndex
    ) -> tuple[Sequence[CustomerRow], Place, PlanIndex]:
        async def read(connection: Connection) -> tuple[Sequence[CustomerRow], Place, PlanIndex]:
            await history.one_view(connection)
            place = await history.tip(connection)
            rows = await customers.page(connection, ids, after, PAGE)
            return rows, place, await recall(connection, chain.from_iterable(items_of(r.facts) for r in rows), plans)

        return await self._database.run(read)

    def _folded(self, row: CustomerRow, plans: PlanIndex) -> Entitlements:
        given = accesses(row.facts, plans.of_price, plans.of_key)
        return fold(row.customer_id, row.revision, given, plans.catalog, self._now())

    async def _until(self, one: Subscription, place: Place) -> Sequence[LoggedChange]:
        """Take what is handed over until the feed has come to a place, and what is after it is the next to be handed over."""
        taken: list[LoggedChange] = []
        began_s = time.monotonic()
        while self._feed.place.position < place.position and not one.lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await one.wait()
            taken += one.take()
            self._refuse_to_guess(began_s)
        taken += one.take()
        later = [change for change in taken if change.position > place.position]
        one.give_back(later)
        return [change for change in taken if change.position <= place.position]

    async def _live(self, one: Subscription, place: Place, scope: str) -> AsyncGenerator[WatchMessage, None]:
        async for change in self._caught_up(one, place):
            place = change.place
            yield self._changed(change, self._cursor(place, scope))
        told_s = time.monotonic()
        while not one.lost:
            moved, read_s = self._feed.place, self._feed.read_time_s
            changes = [change for change in one.take() if change.position > place.position]
            for change in changes:
                place = change.place
                yield self._changed(change, self._cursor(place, scope))
            if moved.position > place.position:  # all of it was of others
                place = moved
            if not changes and read_s >= told_s + PROGRESS_S:  # nothing happened until then, which was a moment ago
                yield WatchMessage(WatchKind.PROGRESS, cursor=self._cursor(place, scope))
            elif not changes:
                self._refuse_to_guess(told_s)
                await self._quiet(one, told_s)
                continue
            told_s = time.monotonic()
        async for message in self._anew(one, scope):
            yield message

    async def _quiet(self, one: Subscription, told_s: float) -> None:
        """Wait until something waits, or until progress may be due of a watch that was told something then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(told_s + PROGRESS_S - time.monotonic(), LOOK_S)):
                await one.wait()

    def _refuse_to_guess(self, since_s: float) -> None:
        """End a watch that waits since then where the log cannot be read: another process may, and this one knows nothing.

        Raises:
            DatabaseUnavailableError: it was not read for too long.
        """
        if time.monotonic() - max(self._feed.answered_time_s, since_s) > MOST_DEAF_S:
            raise DatabaseUnavailableError

    async def _anew(self, one: Subscription, scope: str) -> AsyncGenerator[WatchMessage, None]:
        """Begin with a snapshot again: the database was restored, and the log says something else now."""
        fresh = await self._feed.subscribe(one.customer_ids)
        self._feed.unsubscribe(one)
        try:
            async for message in self._watch(fresh, None, scope):
                yield message
        finally:
            self._feed.unsubscribe(fresh)

    async def _caught_up(self, one: Subscription, place: Place) -> AsyncGenerator[LoggedChange, None]:
        """Give from the log what came between a place and what is handed over."""
        while place.position < one.place.position:
            found = await self._database.run(lambda c, place=place: history.since(c, place, CATCH_UP_PAGE))  # type: ignore[misc] # bound now
            if not found:  # it was trimmed or restored while we read it
                one.lose()
                return
            for change in await self._retell(found):
                if change.position > one.place.position:
                    return
                if one.customer_ids is None or change.customer_id in one.customer_ids:
                    yield change
            place = found[-1].place

    def _changed(self, change: LoggedChange, cursor: str | None) -> WatchMessage:
        return WatchMessage(WatchKind.CHANGE, change.entitlements, change.cause, change.change_time, cursor)

    def _cursor(self, place: Place, scope: str) -> str | None:
        version = self._prices.index.catalog.version
        return WatchCursor(place.position, place.stamp, scope, version).encode()
