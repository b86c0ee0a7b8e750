"""What happens now and what comes late wait in queues of their own, each with bounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from billing_service.flows.lanes import BACKLOG, LATE_S, LIVE, Lane, LaneQueue, Limits, lane_of

NOW = 1_790_000_000.0
SMALL = Limits(waiting_events=4, waiting_bytes=100, batch_events=2, batch_bytes=50, writers=1)


@dataclass(frozen=True)
class Item:
    """Something of a size."""

    size: int


@pytest.mark.parametrize(
    ("created", "lane"),
    [
        (int(NOW), Lane.LIVE),
        (int(NOW) + 3_600, Lane.LIVE),  # Stripe's clock is not ours
        (int(NOW) - LATE_S, Lane.LIVE),
        (int(NOW) - LATE_S - 1, Lane.BACKLOG),
        (None, Lane.LIVE),  # it could not be read, and is put aside at once
    ],
)
def test_an_event_that_is_older_than_stripe_takes_to_deliver_is_of_a_backlog(created: int | None, lane: Lane) -> None:
    assert lane_of(created, NOW) is lane


def test_a_backlog_is_written_in_smaller_steps_than_what_happens_now() -> None:
    assert BACKLOG.batch_events < LIVE.batch_events
    assert BACKLOG.writers < LIVE.writers


def test_what_waits_is_bounded_in_number_and_in_bytes_and_one_call_always_fits_alone() -> None:
    queue: LaneQueue[Item] = LaneQueue(SMALL)
    assert queue.has_room(1, 1_000)  # gRPC has bounded it already
    assert not queue.has_room(5, 5)
    queue.put([Item(60), Item(10)])
    assert queue.has_room(2, 30)
    assert not queue.has_room(2, 31)
    assert not queue.has_room(3, 1)


async def test_a_batch_is_bounded_in_number_and_in_bytes_and_has_one_at_least() -> None:
    queue: LaneQueue[Item] = LaneQueue(SMALL)
    queue.put([Item(10), Item(10), Item(70), Item(5)])
    assert [[item.size for item in await queue.take()] for _ in range(3)] == [[10, 10], [70], [5]]
    assert queue.has_room(4, 100)


async def test_it_waits_for_work_and_ends_when_it_is_closed_and_empty() -> None:
    queue: LaneQueue[Item] = LaneQueue(SMALL)
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not taking.done()
    queue.put([Item(1)])
    queue.close()
    assert await taking == [Item(1)]
    assert await queue.take() == []
