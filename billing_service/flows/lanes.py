"""Two queues in front of the writers: what happens now does not wait behind what comes late.

After an outage Stripe brings a backlog of days, and so does a reconciliation. Each lane has bounds and writers of its own; the
backlog's transactions are small, so that a customer of whom both lanes know something is not locked for long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

LATE_S = 120  # an event that is older than this when it arrives belongs to a backlog; Stripe delivers within seconds


class Lane(Enum):
    """Which queue."""

    LIVE = auto()
    BACKLOG = auto()


@dataclass(frozen=True)
class Limits:
    """The bounds of a lane: of what waits, of one transaction, and how many transactions at once."""

    waiting_events: int
    waiting_bytes: int
    batch_events: int
    batch_bytes: int
    writers: int


MIB = 1024 * 1024
# Two writers: while one waits for Postgres the other works. A call brings 256 events and 4 MiB at the most.
LIVE = Limits(waiting_events=4_096, waiting_bytes=64 * MIB, batch_events=256, batch_bytes=8 * MIB, writers=2)
BACKLOG = Limits(waiting_events=1_024, waiting_bytes=32 * MIB, batch_events=64, batch_bytes=4 * MIB, writers=1)


def lane_of(created: int | None, now: float) -> Lane:
    """Say to which lane an event belongs, by Stripe's time of it; both in seconds since the epoch."""
    return Lane.BACKLOG if created is not None and created < now - LATE_S else Lane.LIVE


class Sized(Protocol):
    """Something that waits, and how many bytes it holds."""

    @property
    def size(self) -> int:
        """Its bytes."""
        ...


_Item = TypeVar("_Item", bound=Sized)


class LaneQueue(Generic[_Item]):
    """What waits in one lane, in the order of arrival."""

    def __init__(self, limits: Limits) -> None:
        """Take the bounds."""
        self.limits = limits
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._work = asyncio.Event()
        self._closing = False

    def has_room(self, events: int, size: int) -> bool:
        """Say whether so many more may wait. One call always fits into an empty queue, whatever its size: gRPC bounds it."""
        too_many = len(self._items) + events > self.limits.waiting_events
        too_large = bool(self._items) and self._bytes + size > self.limits.waiting_bytes
        return not too_many and not too_large

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: Iterable[_Item]) -> None:
        """Have these wait."""
        for item in items:
            self._items.append(item)
            self._bytes += item.size
        self._work.set()

    def close(self) -> None:
        """Let `take` end once nothing waits."""
        self._closing = True
        self._work.set()

    async def take(self) -> list[_Item]:
        """Take what waits, up to a batch, as soon as anything does; nothing when the queue is closed and empty."""
        while not self._items and not self._closing:
            self._work.clear()
            await self._work.wait()
        batch: list[_Item] = []
        size = 0
        while self._items and len(batch) < self.limits.batch_events:
            size += self._items[0].size
            if batch and size > self.limits.batch_bytes:
                break
            item = self._items.popleft()
            self._bytes -= item.size
            batch.append(item)
        return batch
