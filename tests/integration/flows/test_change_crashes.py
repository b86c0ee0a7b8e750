"""Wherever a change is cut off, calling again with the same request id ends where it was to end, and Stripe changes once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from billing_service.domain.errors import BillingError
from billing_service.domain.subscription import ChangeRequest, Operation, Subscription, Wanted
from tests.integration.flows.subscriber import Clock, Subscriber, subscriber
from tests.stripe_proxy import Fault, held, lose_answer, lose_request

MOST_CALLS = 12  # to Stripe by one change; more means that it goes in circles
OPERATIONS = list(Operation)


@pytest.fixture
async def one(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Subscriber]:
    async with subscriber(database_url, stripe_url, clock) as process:
        yield process


@pytest.fixture
async def another(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Subscriber]:
    async with subscriber(database_url, stripe_url, clock) as process:
        await process.prices.refresh()
        yield process


def request_of(operation: Operation, customer_id: str, subscription_id: str) -> ChangeRequest:
    updates = {Operation.UPDATE_NOW, Operation.UPDATE_AT_PERIOD_END}
    wanted = Wanted("team", None, 4) if operation in updates else None
    return ChangeRequest(f"change-{customer_id}", customer_id, subscription_id, operation, wanted)


async def prepared(process: Subscriber, operation: Operation, customer_id: str) -> str:
    """Buy a plan and bring the subscription to where the operation has most to do."""
    subscription_id = await process.subscribed(customer_id)
    match operation:
        case Operation.RESUME:
            await process.control(f"subscriptions/{subscription_id}/cancel", at_period_end=True)
        case Operation.UPDATE_NOW | Operation.CANCEL_AT_PERIOD_END:  # a change that waits is let go
            first = request_of(Operation.UPDATE_AT_PERIOD_END, customer_id, subscription_id)
            await process.change(ChangeRequest(f"before-{customer_id}", *list(vars(first).values())[1:]))
    return subscription_id


async def outcome(process: Subscriber, subscription_id: str) -> dict[str, Any]:
    """Give what there is at Stripe in the end, but for what differs from one subscription to the next."""
    found = await process.subscription(subscription_id)
    invoices = (await process.at_stripe(f"invoices?subscription={subscription_id}"))["data"]
    item = found["items"]["data"][0]
    schedule = found["schedule"] and await process.at_stripe(f"subscription_schedules/{found['schedule']}")
    return {
        "status": found["status"],
        "price": item["price"]["id"],
        "quantity": item["quantity"],
        "ends": found["cancel_at_period_end"],
        "invoices": sorted(invoice["total"] for invoice in invoices),
        "phases": [[one["quantity"] for one in phase["items"]] for phase in schedule["phases"]] if schedule else None,
    }


async def cut_off(process: Subscriber, request: ChangeRequest, number: int, how: Fault | None) -> bool:
    """Carry a request out until its nth call to Stripe goes wrong (None: the process dies); say whether it came to that."""
    arrived = asyncio.Event()
    process.proxy.nth(number, how or held(arrived, asyncio.Event()))
    call = asyncio.create_task(process.change(request))
    waiting = asyncio.create_task(arrived.wait())
    await asyncio.wait({call, waiting}, return_when=asyncio.FIRST_COMPLETED)
    met = process.proxy.met
    call.cancel()
    waiting.cancel()
    with suppress(asyncio.CancelledError, BillingError):
        await call
    return met


@pytest.mark.parametrize("how", [lose_request, lose_answer, None], ids=["request lost", "answer lost", "death"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_change_that_is_cut_off_at_any_call_to_stripe_is_made_once(
    one: Subscriber, another: Subscriber, operation: Operation, how: Fault | None
) -> None:
    """After a death another process goes on."""
    wanted = await prepared(one, operation, "whole")
    answer = await one.change(request_of(operation, "whole", wanted))
    expected = await outcome(one, wanted)
    for number in range(1, MOST_CALLS):
        customer_id = f"cut-{number}"
        subscription_id = await prepared(one, operation, customer_id)
        request = request_of(operation, customer_id, subscription_id)
        if not await cut_off(one, request, number, how):
            break
        assert comparable(await another.change(request)) == comparable(answer)
        assert await outcome(one, subscription_id) == expected
    else:
        pytest.fail(f"more than {MOST_CALLS} calls to Stripe")
    assert number > 1


def comparable(answer: Subscription) -> tuple[object, ...]:
    waiting = answer.scheduled_change
    return (
        answer.plan_key, answer.price_key, answer.quantity, answer.state, answer.end_time is None,
        waiting and (waiting.plan_key, waiting.quantity),
    )  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_eight_calls_at_once_by_two_processes_change_once_and_all_hear_the_same(
    one: Subscriber, another: Subscriber, operation: Operation
) -> None:
    alone = await prepared(one, operation, "alone")
    await one.change(request_of(operation, "alone", alone))
    subscription_id = await prepared(one, operation, "ann")
    request = request_of(operation, "ann", subscription_id)
    answers = await asyncio.gather(*(process.change(request) for process in (one, another) for _ in range(4)))
    assert len(set(answers)) == 1
    assert await outcome(one, subscription_id) == await outcome(one, alone)
