"""Events that arrive while a call is in flight are the next call; bounds hold, and neighbours are let alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from webhook_gateway.forward import Forwarder, Limits
from webhook_gateway.fulfillment import Answer, CallFailed, Committed, Failure, NotCommitted, VerifiedEvent

LONG_S = 60.0  # never reached
APPLIED = Committed("applied")


class Calls:
    """What makes the calls: remembers them, and can hold, fail or break them."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.timeouts: list[float] = []
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.verdict: Callable[[list[str]], CallFailed | None] = lambda _ids: None

    async def __call__(self, events: Sequence[VerifiedEvent], timeout_s: float) -> tuple[Answer, ...] | CallFailed:
        """Make one call."""
        ids = [event.event_id for event in events]
        self.batches.append(ids)
        self.timeouts.append(timeout_s)
        self.begun.set()
        await self.open.wait()
        return self.verdict(ids) or (APPLIED,) * len(events)


class Gated(Calls):
    """Holds each call by itself, until it is answered or everything is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open.clear()
        self._gates: list[asyncio.Event] = []

    async def __call__(self, events: Sequence[VerifiedEvent], timeout_s: float) -> tuple[Answer, ...] | CallFailed:
        """Make one call."""
        self.batches.append([event.event_id for event in events])
        self.timeouts.append(timeout_s)
        gate = asyncio.Event()
        self._gates.append(gate)
        waits = {asyncio.create_task(one.wait()) for one in (gate, self.open)}
        _, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in left:
            one.cancel()
        return (APPLIED,) * len(events)

    def answer(self, index: int) -> None:
        """Answer one call."""
        self._gates[index].set()

    async def made(self, count: int) -> None:
        """Wait until so many calls were made."""
        async with asyncio.timeout(LONG_S):
            while len(self.batches) < count:  # noqa: ASYNC110 - a list that grows tells nobody
                await asyncio.sleep(0)


def event(name: str | int, size: int = 10, customer: str | None = None) -> VerifiedEvent:
    return VerifiedEvent(str(name), b"x" * size, stripe_customer_id=customer)


@asynccontextmanager
async def forwarding(calls: Calls, limits: Limits | None = None, *, at_once: int = 1) -> AsyncIterator[Forwarder]:
    """Forward with one call at a time, so that a held call holds everything, or with several."""
    forwarder = Forwarder(calls, replace(limits or Limits(), calls=at_once))
    try:
        yield forwarder
    finally:
        calls.open.set()
        await forwarder.close(LONG_S)


async def send(forwarder: Forwarder, *events: VerifiedEvent) -> list[asyncio.Task[Answer]]:
    """Queue events, in this order."""
    tasks = [asyncio.create_task(forwarder.forward(one, LONG_S)) for one in events]
    await asyncio.sleep(0)  # each task runs up to its wait
    return tasks


async def held(calls: Calls, forwarder: Forwarder) -> asyncio.Task[Answer]:
    """Have one call in flight, which stays there until `calls.open` is set."""
    calls.open.clear()
    (task,) = await send(forwarder, event("held"))
    await calls.begun.wait()
    return task


async def test_the_first_event_goes_at_once_and_alone() -> None:
    calls = Calls()
    async with forwarding(calls) as forwarder:
        assert await forwarder.forward(event("a"), LONG_S) == APPLIED
    assert calls.batches == [["a"]]


async def test_what_arrives_while_a_call_is_in_flight_is_the_next_call() -> None:
    calls = Calls()
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, *(event(n) for n in range(50)))
        calls.open.set()
        assert await asyncio.gather(first, *others) == [APPLIED] * 51
    assert calls.batches == [["held"], [str(n) for n in range(50)]]


async def test_a_batch_is_bounded_in_count() -> None:
    calls = Calls()
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, *(event(n) for n in range(600)))
        calls.open.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in calls.batches] == [1, 256, 256, 88]


async def test_a_batch_is_bounded_in_bytes_and_takes_at_least_one() -> None:
    calls = Calls()
    async with forwarding(calls, Limits(batch_bytes=100)) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, event("a", 60), event("b", 40), event("c", 1), event("d", 500), event("e", 1))
        calls.open.set()
        await asyncio.gather(first, *others)
    assert calls.batches[1:] == [["a", "b"], ["c"], ["d"], ["e"]]


@pytest.mark.parametrize("limits", [Limits(queue_events=2), Limits(queue_bytes=25)])
async def test_a_full_queue_says_so_at_once_and_keeps_what_it_has(limits: Limits) -> None:
    calls = Calls()
    async with forwarding(calls, limits) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, event("a"), event("b"))
        assert await forwarder.forward(event("c"), LONG_S) == NotCommitted(Failure.OVERLOADED)
        calls.open.set()
        assert await asyncio.gather(first, *others) == [APPLIED] * 3
        assert await forwarder.forward(event("d"), LONG_S) == APPLIED


async def test_a_caller_who_leaves_takes_nobody_with_him_and_is_not_sent() -> None:
    calls = Calls()
    async with forwarding(calls, Limits(queue_events=2)) as forwarder:
        first = await held(calls, forwarder)
        leaver, neighbour = await send(forwarder, event("leaver"), event("neighbour"))
        leaver.cancel()
        await asyncio.wait({leaver})
        (late,) = await send(forwarder, event("late"))  # there is room again
        calls.open.set()
        assert list(await asyncio.gather(first, neighbour, late)) == [APPLIED] * 3
    assert calls.batches == [["held"], ["neighbour", "late"]]


async def test_a_caller_who_leaves_while_in_flight_leaves_the_call_alone() -> None:
    calls = Calls()
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, event("a"), event("b"))
        first.cancel()
        await asyncio.wait({first})
        calls.open.set()
        assert await asyncio.gather(*others) == [APPLIED] * 2
    assert calls.batches == [["held"], ["a", "b"]]


async def test_a_wait_is_bounded_and_what_nobody_waits_for_is_not_sent() -> None:
    calls = Calls()
    async with forwarding(calls, Limits(queue_events=1)) as forwarder:
        await held(calls, forwarder)
        assert await forwarder.forward(event("a"), 0) == NotCommitted(Failure.TIMEOUT)
        (late,) = await send(forwarder, event("late"))  # there is room again
        calls.open.set()
        assert await late == APPLIED
    assert calls.batches == [["held"], ["late"]]


async def test_one_bad_event_is_isolated_and_its_neighbours_pass() -> None:
    calls = Calls()
    calls.verdict = lambda ids: CallFailed(Failure.REFUSED, perhaps_one_event=True) if "137" in ids else None
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, *(event(n) for n in range(256)))
        calls.open.set()
        answers = await asyncio.gather(*others)
        await first
    assert [n for n, answer in enumerate(answers) if answer != APPLIED] == [137]
    assert answers[137] == NotCommitted(Failure.REFUSED)
    assert len(calls.batches) == 1 + 17
    passed = [name for batch in calls.batches[1:] if "137" not in batch for name in batch]
    assert passed == [str(n) for n in range(256) if n != 137]  # the order of arrival is kept


async def test_isolating_has_a_bound_of_calls() -> None:
    calls = Calls()
    calls.verdict = lambda _ids: CallFailed(Failure.BROKEN, perhaps_one_event=True)
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, *(event(n) for n in range(256)))
        calls.open.set()
        assert set(await asyncio.gather(first, *others)) == {NotCommitted(Failure.BROKEN)}
    assert len(calls.batches) == 1 + 48


async def test_isolating_has_a_bound_of_time() -> None:
    """All the parts of a batch share its deadline."""
    calls = Calls()
    calls.verdict = lambda ids: CallFailed(Failure.BROKEN, perhaps_one_event=True) if len(ids) > 1 else None
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, *(event(n) for n in range(8)))
        calls.open.set()
        await asyncio.gather(first, *others)
    assert calls.timeouts[1:] == sorted(calls.timeouts[1:], reverse=True)


async def test_a_batch_without_time_left_is_answered_and_not_sent() -> None:
    calls = Calls()
    async with forwarding(calls, Limits(batch_s=0)) as forwarder:
        assert await forwarder.forward(event("a"), LONG_S) == NotCommitted(Failure.TIMEOUT)
    assert calls.batches == []


async def test_what_is_not_about_an_event_is_not_tried_in_parts() -> None:
    calls = Calls()
    calls.verdict = lambda _ids: CallFailed(Failure.UNAVAILABLE, perhaps_one_event=False)
    async with forwarding(calls) as forwarder:
        first = await held(calls, forwarder)
        others = await send(forwarder, event("a"), event("b"))
        calls.open.set()
        assert set(await asyncio.gather(first, *others)) == {NotCommitted(Failure.UNAVAILABLE)}
    assert calls.batches == [["held"], ["a", "b"]]


async def test_a_fault_of_one_batch_does_not_end_the_queue() -> None:
    calls = Calls()

    def break_once(_ids: list[str]) -> CallFailed | None:
        calls.verdict = lambda _ids: None
        raise ZeroDivisionError

    calls.verdict = break_once
    async with forwarding(calls) as forwarder:
        assert await forwarder.forward(event("a"), LONG_S) == NotCommitted(Failure.BROKEN)
        assert await forwarder.forward(event("b"), LONG_S) == APPLIED


async def test_events_of_one_customer_are_in_one_call_at_a_time_and_in_their_order() -> None:
    calls = Calls()
    calls.open.clear()
    async with forwarding(calls, at_once=2) as forwarder:
        first = await send(forwarder, event("a1", customer="cus_a"))
        await calls.begun.wait()
        others = await send(forwarder, event("a2", customer="cus_a"), event("b1", customer="cus_b"), event("x"))
        async with asyncio.timeout(LONG_S):
            while len(calls.batches) < 2:  # noqa: ASYNC110 - a list that grows tells nobody
                await asyncio.sleep(0)
        assert calls.batches == [["a1"], ["b1", "x"]]
        calls.open.set()
        assert await asyncio.gather(*first, *others) == [APPLIED] * 4
    assert calls.batches == [["a1"], ["b1", "x"], ["a2"]]


@pytest.mark.parametrize("count", [8, 9, 10, 11, 101])
async def test_what_is_here_is_shared_between_the_calls(count: int) -> None:
    """Else one call would have everything, and nothing would be left to do for whoever waits for the other. Neither waits for more."""
    calls = Gated()
    async with forwarding(calls, Limits(company_s=LONG_S), at_once=2) as forwarder:
        tasks = await send(forwarder, *(event(n) for n in range(count)))
        await calls.made(2)
        assert [len(batch) for batch in calls.batches] == [(count + 1) // 2, count // 2]
        calls.open.set()
        assert await asyncio.gather(*tasks) == [APPLIED] * count


@pytest.mark.parametrize("count", [3, 5, 7])
async def test_few_are_not_shared_out(count: int) -> None:
    """A call costs more than what each of them brings."""
    calls = Gated()
    async with forwarding(calls, at_once=2) as forwarder:
        tasks = await send(forwarder, *(event(n) for n in range(count)))
        await calls.made(1)
        calls.open.set()
        assert await asyncio.gather(*tasks) == [APPLIED] * count
    assert calls.batches == [[str(n) for n in range(count)]]


async def test_one_who_waits_for_his_customer_keeps_nobody_from_company() -> None:
    """He may have waited for long: what came after him still leaves together."""
    calls = Gated()
    async with forwarding(calls, Limits(company_s=LONG_S), at_once=2) as forwarder:
        tasks = await send(forwarder, *(event(n, customer=f"cus_{n}") for n in range(16)))
        await calls.made(2)
        held_back = await send(forwarder, event("again", customer="cus_0"))
        forwarder._queue[0] = replace(forwarder._queue[0], leave_at=0.0)  # as if he had waited for long
        calls.answer(1)
        await asyncio.gather(*tasks[8:])
        tasks += await send(forwarder, event("a"))
        await asyncio.sleep(0)
        tasks += await send(forwarder, *(event(f"b{n}") for n in range(7)))
        await calls.made(3)
        assert calls.batches[2] == ["a", *(f"b{n}" for n in range(7))]
        calls.open.set()
        assert await asyncio.gather(*tasks, *held_back) == [APPLIED] * 25


@pytest.mark.parametrize("more", [3, 1])
async def test_beside_a_call_in_flight_the_next_leaves_with_its_share(more: int) -> None:
    """A few that come first wait for the others, and go as soon as they are as many as in the call, or the call has ended."""
    calls = Gated()
    async with forwarding(calls, Limits(company_s=LONG_S), at_once=2) as forwarder:
        tasks = await send(forwarder, *(event(n) for n in range(8)))
        await calls.made(2)
        calls.answer(1)
        await asyncio.gather(*tasks[4:])
        tasks += await send(forwarder, event("a"))
        await asyncio.sleep(0)
        tasks += await send(forwarder, *(event(f"b{n}") for n in range(more)))
        if more == 1:
            calls.answer(0)
        await calls.made(3)
        assert calls.batches[2] == ["a", *(f"b{n}" for n in range(more))]
        calls.open.set()
        assert await asyncio.gather(*tasks) == [APPLIED] * (9 + more)


async def test_the_wait_for_company_is_bounded() -> None:
    calls = Gated()
    async with forwarding(calls, Limits(company_s=0.001), at_once=2) as forwarder:
        tasks = await send(forwarder, *(event(n) for n in range(8)))
        await calls.made(2)
        calls.answer(1)
        await asyncio.gather(*tasks[4:])
        tasks += await send(forwarder, event("a"))
        await calls.made(3)
        assert calls.batches[2] == ["a"]
        calls.open.set()
        assert await asyncio.gather(*tasks) == [APPLIED] * 9


async def test_closing_waits_for_nobodys_company() -> None:
    calls = Gated()
    forwarder = Forwarder(calls, Limits(company_s=LONG_S))
    tasks = await send(forwarder, *(event(n) for n in range(8)))
    await calls.made(2)
    calls.answer(1)
    await asyncio.gather(*tasks[4:])
    tasks += await send(forwarder, event("a"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(forwarder.close(LONG_S))
    await calls.made(3)
    calls.open.set()
    assert await asyncio.gather(*tasks) == [APPLIED] * 9
    await closing


async def test_closing_waits_for_what_waits_for_its_customer() -> None:
    calls = Calls()
    calls.open.clear()
    forwarder = Forwarder(calls)
    first = await send(forwarder, event("a1", customer="cus_a"))
    await calls.begun.wait()
    second = await send(forwarder, event("a2", customer="cus_a"))
    closing = asyncio.create_task(forwarder.close(LONG_S))
    await asyncio.sleep(0)
    calls.open.set()
    assert await asyncio.gather(*first, *second) == [APPLIED] * 2
    await closing
    assert calls.batches == [["a1"], ["a2"]]


async def test_closing_sends_what_is_queued_and_takes_no_more() -> None:
    calls = Calls()
    forwarder = Forwarder(calls)
    first = await held(calls, forwarder)
    others = await send(forwarder, event("a"), event("b"))
    closing = asyncio.create_task(forwarder.close(LONG_S))
    await asyncio.sleep(0)
    assert await forwarder.forward(event("late"), LONG_S) == NotCommitted(Failure.DRAINING)
    calls.open.set()
    assert await asyncio.gather(first, *others) == [APPLIED] * 3
    await closing
    assert calls.batches == [["held"], ["a", "b"]]


async def test_closing_is_bounded_and_leaves_nobody_without_an_answer() -> None:
    calls = Calls()
    forwarder = Forwarder(calls)
    first = await held(calls, forwarder)
    others = await send(forwarder, event("a"))
    await forwarder.close(0)
    assert set(await asyncio.gather(first, *others)) == {NotCommitted(Failure.DRAINING)}
