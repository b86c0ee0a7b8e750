"""A change whose caller does not come back ends by itself where it was paid; one whose ground has gone ends with a reason."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest

from billing_service.domain.errors import (
    PlanGroupMismatchError,
    StripeUnavailableError,
    SubscriptionChangeSupersededError,
)
from billing_service.domain.operator import Order
from billing_service.domain.subscription import Operation
from billing_service.domain.views import ObjectKind
from billing_service.flows.asked_reads import AskedReads
from billing_service.flows.link_stripe_customer import LinkStripeCustomer, LinkWish
from billing_service.flows.subscription_intents import BUSY
from billing_service.storage.database import Database
from tests.integration.flows.subscriber import Clock, Subscriber
from tests.stripe_proxy import Fault, fail, held, lose_answer, lose_request

MOST_READS = 20  # of what is queued; more means that it goes in circles


async def with_a_change_that_waits(ann: Subscriber, database_url: str) -> str:
    """Buy four seats of Team, and have Pro wait for the end of the period; nothing is queued to be read again then."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.update(subscription_id, at_period_end=True, request_id="later", plan_key="pro")
    assert await time_passes(ann, database_url) == []
    return subscription_id


def path(subscription_id: str) -> tuple[str, str]:
    return ("POST", f"/v1/subscriptions/{subscription_id}")


async def release_path(ann: Subscriber, subscription_id: str) -> tuple[str, str]:
    schedule = (await ann.subscription(subscription_id))["schedule"]
    return ("POST", f"/v1/subscription_schedules/{schedule}/release")


async def left(ann: Subscriber, subscription_id: str, fault: Fault = fail) -> None:
    """Ask for nine seats, which is made and paid, and have the schedule stay."""
    ann.proxy.next(*await release_path(ann, subscription_id), fault)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, quantity=9)


async def stands(ann: Subscriber, subscription_id: str) -> tuple[int, bool]:
    """Give the seats at Stripe, and whether a schedule is over them."""
    found = await ann.subscription(subscription_id)
    return found["items"]["data"][0]["quantity"], found["schedule"] is not None


async def time_passes(ann: Subscriber, database_url: str) -> list[str]:
    """Have everything that is queued to be read again read, once, and give what is queued after it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE rereads SET due_time = now() - interval '1 second'")
        for _ in range(MOST_READS):
            if not await ann.refresh.drain():
                return [row[0] for row in connection.execute("SELECT object_id FROM rereads ORDER BY 1")]
    pytest.fail("it is read again and again")


async def test_a_paid_change_whose_schedule_stayed_is_finished_without_its_caller(
    ann: Subscriber, database_url: str
) -> None:
    """Else what waits would undo, at the renewal, what was paid for. Whoever asks again gets the answer, and pays once."""
    subscription_id = await with_a_change_that_waits(ann, database_url)
    await left(ann, subscription_id)
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (9, False)
    await ann.control(f"subscriptions/{subscription_id}/renew", outcome="paid")
    assert await stands(ann, subscription_id) == (9, False)
    calls = ann.proxy.calls[path(subscription_id)]
    answer = await ann.update(subscription_id, quantity=9)
    assert (answer.quantity, answer.scheduled_change) == (9, None)
    assert ann.proxy.calls[path(subscription_id)] == calls


async def test_a_release_that_fails_again_is_tried_again(ann: Subscriber, database_url: str) -> None:
    subscription_id = await with_a_change_that_waits(ann, database_url)
    await left(ann, subscription_id)
    ann.proxy.next(*await release_path(ann, subscription_id), fail)
    assert await time_passes(ann, database_url) == [subscription_id]
    assert await stands(ann, subscription_id) == (9, True)
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (9, False)


async def test_a_read_that_a_caller_waits_for_does_not_take_the_finishing_out_of_the_queue(
    ann: Subscriber, database_url: str, clock: Clock
) -> None:
    """It takes the subscription's turn: so it finishes what was left, or leaves it queued where that fails."""
    subscription_id = await with_a_change_that_waits(ann, database_url)
    await left(ann, subscription_id)
    ann.proxy.next(*await release_path(ann, subscription_id), fail)
    database = Database(database_url)
    asked = AskedReads(database, ann.reads, clock, ann.change.finish_left)
    clock.ahead += timedelta(seconds=10)  # else it was read a moment ago
    assert await asked.ask(ObjectKind.SUBSCRIPTION, subscription_id)
    await database.close()
    assert await stands(ann, subscription_id) == (9, True)
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (9, False)


@pytest.mark.parametrize("fault", [lose_answer, None], ids=["answer lost", "death"])
async def test_a_change_that_was_cut_off_when_it_was_charged_is_finished_too(
    ann: Subscriber, database_url: str, clock: Clock, fault: Fault | None
) -> None:
    """Nobody lives who could have asked for it afterwards: it was asked for before the charge. Who is at it is left alone."""
    subscription_id = await with_a_change_that_waits(ann, database_url)
    charged, go = asyncio.Event(), asyncio.Event()
    ann.proxy.next(*path(subscription_id), fault or held(charged, go))
    call = asyncio.create_task(ann.update(subscription_id, quantity=9))
    if fault is None:
        await charged.wait()
        assert await time_passes(ann, database_url) == [subscription_id]  # it is being carried out
        assert await stands(ann, subscription_id) == (9, True)
        call.cancel()
        clock.ahead += BUSY
    with suppress(StripeUnavailableError, asyncio.CancelledError):
        await call
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (9, False)


async def test_a_change_that_was_not_made_is_not_made_behind_its_callers_back(
    ann: Subscriber, database_url: str
) -> None:
    subscription_id = await with_a_change_that_waits(ann, database_url)
    ann.proxy.next(*path(subscription_id), lose_request)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, quantity=9)
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (4, True)
    assert (await ann.update(subscription_id, quantity=9)).quantity == 9


async def test_what_was_asked_for_later_counts_and_not_what_was_left(ann: Subscriber, database_url: str) -> None:
    """Three seats from the next period on, asked for when the nine were paid and the schedule still stood."""
    subscription_id = await with_a_change_that_waits(ann, database_url)
    await left(ann, subscription_id)
    await ann.update(subscription_id, at_period_end=True, request_id="latest", quantity=3)
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (9, True)
    with pytest.raises(SubscriptionChangeSupersededError):
        await ann.update(subscription_id, quantity=9)


async def test_a_change_of_who_lost_the_subscription_is_left_as_it_is(
    ann: Subscriber, database_url: str, clock: Clock
) -> None:
    """An operator has linked its Stripe customer to another customer; it is not asked for again and again."""
    subscription_id = await with_a_change_that_waits(ann, database_url)
    await left(ann, subscription_id)
    database = Database(database_url)
    link = LinkStripeCustomer(database, ann.reads, ann.prices, clock)
    owner = (await ann.subscription(subscription_id))["customer"]
    await link(Order("link-1", "ops", "it is Bob's"), LinkWish("bob", owner, replace=True))
    await database.close()
    assert await time_passes(ann, database_url) == []
    assert await stands(ann, subscription_id) == (9, True)


# What is changed at the end of a period is gone by the time at which the request comes again -----------------------


async def swap_item(ann: Subscriber, subscription_id: str, lookup_key: str | None = None) -> None:
    """Put an item of another price in the place of the one there is, in the dashboard; None: a price that the catalog knows nothing of."""
    if lookup_key is None:
        product = (await ann.at_stripe("prices?lookup_keys[]=pro_monthly"))["data"][0]["product"]
        form = {"product": product, "currency": "eur", "unit_amount": "100", "recurring[interval]": "month"}
        price = await ann.at_stripe("prices", "POST", **form)
    else:
        price = (await ann.at_stripe(f"prices?lookup_keys[]={lookup_key}"))["data"][0]
    old = (await ann.subscription(subscription_id))["items"]["data"][0]["id"]
    form = {"items[0][id]": old, "items[0][deleted]": "true", "items[1][price]": price["id"]}
    await ann.at_stripe(f"subscriptions/{subscription_id}", "POST", **form)


async def unheard_at_period_end(ann: Subscriber, subscription_id: str, fault: Fault, step: str) -> None:
    ann.proxy.next("POST", step, fault)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, at_period_end=True, plan_key="team", quantity=4)


async def test_a_change_at_period_end_of_what_was_removed_meanwhile_is_refused_with_the_reason(ann: Subscriber) -> None:
    """And not told for a day to come again. The request id may be used again, and bars nothing."""
    subscription_id = await ann.subscribed()
    await unheard_at_period_end(ann, subscription_id, lose_request, "/v1/subscription_schedules")
    await swap_item(ann, subscription_id)
    for _ in range(2):
        with pytest.raises(PlanGroupMismatchError):
            await ann.update(subscription_id, at_period_end=True, plan_key="team", quantity=4)
    await ann.asked(subscription_id, Operation.CANCEL_AT_PERIOD_END, "cancel-1")


async def test_a_change_at_period_end_is_made_of_what_stands_in_the_place_of_what_was_removed(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await unheard_at_period_end(ann, subscription_id, lose_request, "/v1/subscription_schedules")
    await swap_item(ann, subscription_id, "pro_yearly")
    changed = await ann.update(subscription_id, at_period_end=True, plan_key="team", quantity=4)
    assert changed.scheduled_change is not None
    assert (changed.scheduled_change.plan_key, changed.scheduled_change.quantity) == ("team", 4)


async def test_a_change_at_period_end_that_waits_unheard_is_told_though_what_it_changes_was_removed_since(
    ann: Subscriber,
) -> None:
    subscription_id = await ann.subscribed()
    await ann.update(subscription_id, at_period_end=True, request_id="before", plan_key="team", quantity=2)
    schedule = (await ann.subscription(subscription_id))["schedule"]
    await unheard_at_period_end(ann, subscription_id, lose_answer, f"/v1/subscription_schedules/{schedule}")
    await swap_item(ann, subscription_id)
    changed = await ann.update(subscription_id, at_period_end=True, plan_key="team", quantity=4)
    assert changed.scheduled_change is not None
    assert (changed.scheduled_change.plan_key, changed.scheduled_change.quantity) == ("team", 4)
