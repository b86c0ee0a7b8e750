"""Reads the log of changes once for all watches of this process, and hands each change to those that ask for its customer.

What a change costs does not grow with the watches that do not ask for it, and next to nothing where nobody watches: then nobody
listens, and the log is read once a second, so that whoever comes first is not far behind. A watch that does not take what it is handed holds nobody up:
beyond a bound it is overrun, and must begin again from its cursor.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from billing_service.domain.errors import BillingError, WatcherTooSlowError
from billing_service.flows.retell import Retell
from billing_service.logs import named
from billing_service.storage import history
from billing_service.storage.database import Database
from billing_service.storage.history import BEGINNING, CHANNEL, LoggedChange, Place
from billing_service.storage.listener import listen
from billing_service.storage.unwritable import UnwritableError

MOST_READ = 1_000  # changes in one go
MOST_WAITING = 1_000  # for one watch; and as many again in its hands, while it tells them
MOST_WAITING_BYTES = 4 * 2**20  # of the same, as text: above 4 KiB a change it is this that counts
POLL_S = 1.0  # where no notification comes, or nobody watches
RETRY_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Subscription:
    """What waits for one watch. `customer_ids` is None for all."""

    customer_ids: frozenset[str] | None
    place: Place  # where it began: what is after it is handed over
    lost: bool = False  # the log does not go on from what was handed over: the database was restored
    _waiting: deque[LoggedChange] = field(default_factory=deque)
    _waiting_bytes: int = 0
    _overrun: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def hand(self, change: LoggedChange) -> None:
        """Hand a change over, unless too many wait already, or too much; one alone is never too much."""
        if self._waiting and not self._has_room(change):
            self._overrun = True
            self._empty()
        if not self._overrun:
            self._waiting.append(change)
            self._waiting_bytes += change.size_bytes
        self._wake.set()

    def lose(self) -> None:
        """Say that what comes next is not known."""
        self.lost = True
        self._wake.set()

    def take(self) -> list[LoggedChange]:
        """Take what waits.

        Raises:
            WatcherTooSlowError: more came than may wait.
        """
        if self._overrun:
            raise WatcherTooSlowError
        taken = list(self._waiting)
        self._empty()
        self._wake.clear()
        if self.lost:
            self._wake.set()
        return taken

    def give_back(self, changes: Sequence[LoggedChange]) -> None:
        """Put changes back that are not to be told yet, before what came since."""
        self._waiting.extendleft(reversed(changes))
        self._waiting_bytes += sum(change.size_bytes for change in changes)
        if changes:
            self._wake.set()

    async def wait(self) -> None:
        """Wait until something waits; the caller bounds it."""
        await self._wake.wait()

    def _has_room(self, change: LoggedChange) -> bool:
        return len(self._waiting) < MOST_WAITING and self._waiting_bytes + change.size_bytes <= MOST_WAITING_BYTES

    def _empty(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0


class ChangeFeed:
    """The one reader of the log in this process."""

    def __init__(
        self, database: Database, url: str, retell: Retell, told: Callable[[datetime], None] | None = None
    ) -> None:
        """`url` is for the connection that listens, beside the pool's; `told` hears of when each change was made that is handed over."""
        self._retell = retell
        self._told = told
        self._database = database
        self._url = url
        self._place: Place | None = None
        self._read_time_s = -math.inf
        self._answered_time_s = -math.inf
        self._beginning = asyncio.Lock()
        self._wake = asyncio.Event()
        self._watched = asyncio.Event()  # set while anybody watches
        self._all: set[Subscription] = set()
        self._by_customer: dict[str, set[Subscription]] = {}

    async def run(self) -> None:
        """Read on whenever something was appended, for ever."""
        listener = asyncio.create_task(listen(self._url, CHANNEL, self._wake.set, self._watched))
        try:
            while True:
                try:
                    while await self._read():
                        pass
                except (BillingError, UnwritableError) as error:
                    log.warning("change_feed_interrupted", error=named(error))
                    await asyncio.sleep(RETRY_S)
                await self._rest()
        finally:
            listener.cancel()
            await asyncio.wait({listener})

    async def subscribe(self, customer_ids: Collection[str] | None) -> Subscription:
        """Begin to collect changes for a watch, from where the log is now.

        Raises:
            DatabaseUnavailableError: it is not known yet where that is.
        """
        one = Subscription(None if customer_ids is None else frozenset(customer_ids), await self._begin())
        if one.customer_ids is None:
            self._all.add(one)
        else:
            for customer_id in one.customer_ids:
                self._by_customer.setdefault(customer_id, set()).add(one)
        self._watched.set()  # what was told meanwhile is remembered by `_wake`
        return one

    def unsubscribe(self, one: Subscription) -> None:
        """End a subscription."""
        self._all.discard(one)
        for customer_id in one.customer_ids or ():
            held = self._by_customer.get(customer_id)
            if held is not None:
                held.discard(one)
                if not held:
                    del self._by_customer[customer_id]
        if not self._all and not self._by_customer:
            self._watched.clear()

    @property
    def place(self) -> Place:
        """Say how far the log was read."""
        return self._place or BEGINNING

    @property
    def read_time_s(self) -> float:
        """Say when (by the monotonic clock) a read began that came to the end of the log: what was committed by then was handed over.

        Long ago where the log cannot be read: nobody knows then whether anything happened.
        """
        return self._read_time_s

    @property
    def answered_time_s(self) -> float:
        """Say when (by the monotonic clock) a read began that was answered, whether it came to the end of the log or is behind."""
        return self._answered_time_s

    async def _begin(self) -> Place:
        """Give how far the log was read; the first who asks finds where it ends, and nobody moves that on but the reader."""
        async with self._beginning:
            if self._place is None:
                self._place = await self._database.run(history.tip)
            return self._place

    async def _read(self) -> bool:
        """Hand the next changes over; say whether there may be more at once."""
        place, began_s = await self._begin(), time.monotonic()
        found = await self._database.run(lambda connection: history.since(connection, place, MOST_READ))
        self._answered_time_s = began_s
        if found is None:
            log.warning("change_feed_lost", position=place.position)
            self._place = await self._database.run(history.tip)
            for one in self._everybody():
                one.lose()
            return False
        for change in await self._retell(found) if self._watched.is_set() else found:
            for one in (*self._all, *self._by_customer.get(change.customer_id, ())):
                one.hand(change)
            if self._told is not None and self._watched.is_set():
                self._told(change.change_time)
        if found:
            self._place = found[-1].place
        if len(found) < MOST_READ:
            self._read_time_s = began_s
        return len(found) == MOST_READ

    def _everybody(self) -> set[Subscription]:
        return self._all.union(*self._by_customer.values())

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._watched.wait()
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
