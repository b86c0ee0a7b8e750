"""Gathers the events that arrive while a call is in flight and sends them as the next one.

The first event goes at once, alone. Tasks of their own make the calls, so that a caller who goes away takes nobody with him. Few calls
are in flight at a time, which is what makes batches grow with load; more than one, so that the service works on the next while
PostgreSQL writes the last. They share what is here: a call takes no more than its part, and beside one that is in flight the next waits
for its part, briefly. Else the senders that were just answered would begin a call of one event, all others would be in the other call,
and neither the service nor PostgreSQL would have anything to do while the other works.

Events of one Stripe customer are in one call at a time. In two, they would be in two transactions, and the second would wait for
the first with all that it holds: a renewal is an invoice and a subscription at once, so that nearly every pair of batches would share
somebody.

There is a forwarder for what happens now, and one for what comes late (`LATE_S`): after an outage Stripe brings a backlog of
days, and nobody who buys now is to wait behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from webhook_gateway.fulfillment import Answer, CallFailed, Failure, NotCommitted, VerifiedEvent

_log = structlog.stdlib.get_logger(__name__)

Fulfill = Callable[[Sequence[VerifiedEvent], float], Awaitable[tuple[Answer, ...] | CallFailed]]


@dataclass(frozen=True)
class Limits:
    """The bounds of forwarding."""

    batch_events: int = 256  # the contract's limit
    batch_bytes: int = 3 * 1024 * 1024  # of the 4 MiB that a message may have; the framing needs a few bytes per event
    batch_s: float = 5.0  # for a batch with all of its parts, so that those behind it keep some of their 8 s
    batch_calls: int = 48  # one bad event among 256 takes 17 calls to isolate, two at most 31
    queue_events: int = 1024
    queue_bytes: int = 64 * 1024 * 1024
    calls: int = 2  # in flight at once
    company_s: float = 0.02  # the longest that an event waits for others, and only beside a call that is in flight


FEW = 4  # make no call of their own where others are here, too: it costs more than what so many bring
CLOCK_STEP_S = 0.001  # of uvloop's clock: what is nearer than that counts as over, or the loop would turn on the spot
LATE_S = 120.0  # an event that is older than this when it comes belongs to a backlog; Stripe delivers within seconds
# Half of what the gateway holds at once, so that a backlog of any size leaves room for what happens now.
BACKLOG = Limits(batch_events=64, queue_events=448, queue_bytes=32 * 1024 * 1024, calls=1)


# Compared by identity: two copies of one event wait each for themselves. Not frozen: making one would cost four times as much.
@dataclass(eq=False, slots=True)
class _Waiting:
    event: VerifiedEvent
    answer: asyncio.Future[Answer]
    leave_at: float  # with company or without, as far as a call is free; the loop's time

    def settle(self, answer: Answer) -> None:
        if not self.answer.done():  # its caller may have gone
            self.answer.set_result(answer)


class Forwarder:
    """The queue in front of the service."""

    def __init__(self, fulfill: Fulfill, limits: Limits | None = None) -> None:
        """Take what makes one call, and the bounds. Needs a running event loop: its tasks start here."""
        self._fulfill = fulfill
        self._limits = limits or Limits()
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._under_way: set[str] = set()  # the Stripe customers of whom a call has events
        self._events_under_way = 0
        self._timer: asyncio.TimerHandle | None = None  # for those who wait for company
        self._work = asyncio.Event()
        self._closing = False
        self._tasks = {asyncio.create_task(self._run(), name="forwarder") for _ in range(self._limits.calls)}

    def __len__(self) -> int:
        return len(self._queue)

    async def forward(self, event: VerifiedEvent, timeout_s: float) -> Answer:
        """Have an event committed, and wait at most `timeout_s` for it.

        An event whose caller gives up before its call has begun is not sent; one that is in flight is not called back.
        Sending it again later is always right: the service knows it by its id.
        """
        if self._closing:
            return NotCommitted(Failure.DRAINING)
        if self._is_full(event):
            return NotCommitted(Failure.OVERLOADED)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(event, loop.create_future(), loop.time() + self._limits.company_s)
        self._append(waiting)
        timer = loop.call_later(timeout_s, self._give_up, waiting)
        try:
            return await waiting.answer
        finally:
            timer.cancel()
            if waiting.answer.cancelled():  # with our caller
                self._forget(waiting)

    async def close(self, timeout_s: float) -> None:
        """Take no more, send what is queued within `timeout_s`, and answer the rest that it was not committed."""
        self._closing = True
        self._work.set()
        await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _is_full(self, event: VerifiedEvent) -> bool:
        return (
            len(self._queue) >= self._limits.queue_events
            or self._queue_bytes + len(event.payload) > self._limits.queue_bytes
        )

    def _append(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._queue_bytes += len(waiting.event.payload)
        self._work.set()

    def _give_up(self, waiting: _Waiting) -> None:
        if not waiting.answer.done():
            waiting.settle(NotCommitted(Failure.TIMEOUT))
            self._forget(waiting)

    def _forget(self, waiting: _Waiting) -> None:
        """Take out of the queue what nobody waits for any more, if it is still in there."""
        try:
            self._queue.remove(waiting)
        except ValueError:
            return
        self._queue_bytes -= len(waiting.event.payload)

    async def _run(self) -> None:
        batch: list[_Waiting] = []
        try:
            while not (self._closing and not self._queue):
                await self._work.wait()
                if self._waits_for_company():
                    self._work.clear()
                    continue
                batch = self._take()
                if batch:
                    await self._deliver_or_report(batch)
                    self._release(batch)
                elif self._queue or not self._closing:  # the queue: all of it waits for what is under way
                    self._work.clear()
        finally:
            self._closing = True
            for waiting in (*batch, *self._queue):
                waiting.settle(NotCommitted(Failure.DRAINING))

    def _free(self) -> list[_Waiting]:
        """Give what may leave now: the others wait until a call that is about their customer has ended."""
        return [one for one in self._queue if one.event.stripe_customer_id not in self._under_way]

    def _waits_for_company(self) -> bool:
        """Say whether what is queued is to wait for more: a call is in flight, and this is less than its share of all that is here."""
        if self._closing or not self._events_under_way:
            return False
        free = self._free()
        if not free or len(free) >= (len(free) + self._events_under_way) // self._limits.calls:
            return False
        loop = asyncio.get_running_loop()
        if loop.time() + CLOCK_STEP_S >= free[0].leave_at:
            return False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(free[0].leave_at, self._work.set)
        return True

    def _most(self) -> int:
        """Say how many one call may take: its share of what is here, or all of it where that is not worth two calls."""
        here = len(self._queue) + self._events_under_way
        share = here if here < 2 * FEW else -(-here // self._limits.calls)
        return min(share, self._limits.batch_events)

    def _take(self) -> list[_Waiting]:
        """Take the next batch from the queue, in the order of arrival and up to the limits; leave whom a call is about already."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        size, most = 0, self._most()
        while self._queue and len(batch) < most:
            waiting = self._queue.popleft()
            size += len(waiting.event.payload)
            if waiting.event.stripe_customer_id in self._under_way:
                left.append(waiting)
                size -= len(waiting.event.payload)
            elif batch and size > self._limits.batch_bytes:
                left.append(waiting)
                break
            else:
                batch.append(waiting)
        self._queue.extendleft(reversed(left))
        self._queue_bytes -= sum(len(waiting.event.payload) for waiting in batch)
        self._under_way.update(_customers(batch))
        self._events_under_way += len(batch)
        return batch

    def _release(self, batch: Sequence[_Waiting]) -> None:
        self._events_under_way -= len(batch)
        self._under_way.difference_update(_customers(batch))
        self._work.set()

    async def _deliver_or_report(self, batch: list[_Waiting]) -> None:
        try:
            await self._deliver(batch)
        except Exception:  # noqa: BLE001 - the queue must outlive any fault of one batch; the fault is logged in full
            _log.exception("forward_failed", events=len(batch))
            _settle(batch, NotCommitted(Failure.BROKEN))

    async def _deliver(self, batch: list[_Waiting]) -> None:
        """Send a batch; when one event may be to blame for its failure, send its halves, and so on down to that event.

        Left half first: the order of arrival is kept. Each part is answered as soon as it is through.
        """
        deadline = time.monotonic() + self._limits.batch_s
        parts = deque([batch])
        last_failure = Failure.TIMEOUT
        for _ in range(self._limits.batch_calls):
            remaining_s = deadline - time.monotonic()
            if not parts or remaining_s <= 0:
                break
            part = parts.popleft()
            result = await self._fulfill([waiting.event for waiting in part], remaining_s)
            if not isinstance(result, CallFailed):
                for waiting, answer in zip(part, result, strict=True):
                    waiting.settle(answer)
            elif result.perhaps_one_event and len(part) > 1:
                last_failure = result.failure
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
            else:
                _settle(part, NotCommitted(result.failure))
        for part in parts:
            _settle(part, NotCommitted(last_failure))


def _customers(batch: Sequence[_Waiting]) -> set[str]:
    return {one.event.stripe_customer_id for one in batch if one.event.stripe_customer_id is not None}


def _settle(part: Sequence[_Waiting], answer: Answer) -> None:
    for waiting in part:
        waiting.settle(answer)
