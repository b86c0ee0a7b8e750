"""A subscription changes once per request id, whatever is lost, repeated or crashes; what the customer has follows at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from aiohttp import web

from billing_service.deadline import deadline_after
from billing_service.domain.access import SourceState
from billing_service.domain.errors import (
    InvalidFieldsError,
    PaymentFailedError,
    PlanGroupMismatchError,
    PlanNotForSaleError,
    PlanNotFoundError,
    PriceNotFoundError,
    RequestIdReusedError,
    RequestInProgressError,
    StripeUnavailableError,
    SubscriptionChangeSupersededError,
    SubscriptionEndingError,
    SubscriptionNotFoundError,
    SubscriptionNotLiveError,
)
from billing_service.domain.subscription import Operation
from sandbox.stripe.errors import ApiError
from tests.integration.flows.conftest import value_of
from tests.integration.flows.subscriber import Clock, Subscriber, decline, stand_in, subscriber, update_request
from tests.stripe_proxy import held, lose_answer, lose_request


def path(subscription_id: str) -> tuple[str, str]:
    return ("POST", f"/v1/subscriptions/{subscription_id}")


async def state(ann: Subscriber) -> SourceState:
    (source,) = (await ann.answer()).sources
    return source.state


async def invoices(ann: Subscriber) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ann.at_stripe("invoices"))["data"]
    return [invoice for invoice in found if invoice["billing_reason"] == "subscription_update"]


async def test_an_upgrade_changes_what_the_customer_has_at_once_and_is_paid(ann: Subscriber) -> None:
    """No webhook came: Stripe's answer counts as the read that it is."""
    subscription_id = await ann.subscribed()
    changed = await ann.update(subscription_id, plan_key="team", quantity=4)
    assert (changed.plan_key, changed.price_key, changed.quantity) == ("team", "monthly", 4)
    assert (changed.state, changed.end_time, changed.scheduled_change) == (SourceState.ACTIVE, None, None)
    answer = await ann.answer()
    assert answer.plan_keys == ("team",)
    assert value_of(answer, "seats") == 4
    (invoice,) = await invoices(ann)
    assert (invoice["status"], invoice["total"]) == ("paid", 3600 - 1200)
    at_stripe = await ann.at_stripe(f"subscriptions/{subscription_id}")
    assert at_stripe["metadata"]["billing_plan_key"] == "team"
    assert at_stripe["metadata"]["billing_customer_id"] == "ann"


async def test_the_same_request_again_gets_the_stored_answer(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    first = await ann.update(subscription_id, plan_key="team")
    await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    assert await ann.update(subscription_id, plan_key="team") == first
    assert ann.proxy.calls[path(subscription_id)] == 1


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        (Operation.CANCEL_AT_PERIOD_END, Operation.RESUME),
        (Operation.RESUME, Operation.CANCEL_AT_PERIOD_END),
        (Operation.CANCEL_NOW, None),
    ],
)
async def test_a_cancellation_or_resumption_that_is_repeated_does_not_undo_what_came_after_it(
    ann: Subscriber, operation: Operation, after: Operation | None
) -> None:
    subscription_id = await ann.subscribed()
    if operation is Operation.RESUME:
        await ann.asked(subscription_id, Operation.CANCEL_AT_PERIOD_END, "cancel-0")
    first = await ann.asked(subscription_id, operation, "request-1")
    if after is not None:
        await ann.asked(subscription_id, after, "request-2")
    before, called = await ann.subscription(subscription_id), ann.proxy.calls.total()
    assert await ann.asked(subscription_id, operation, "request-1") == first
    assert ann.proxy.calls.total() == called, "a stored answer asks Stripe for nothing"
    assert await ann.subscription(subscription_id) == before
    for other in {Operation.CANCEL_AT_PERIOD_END, Operation.CANCEL_NOW, Operation.RESUME} - {operation}:
        with pytest.raises(RequestIdReusedError):
            await ann.asked(subscription_id, other, "request-1")
    assert await ann.subscription(subscription_id) == before


async def test_the_same_request_id_with_other_parameters_is_refused(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await ann.update(subscription_id, plan_key="team")
    with pytest.raises(RequestIdReusedError):
        await ann.update(subscription_id, plan_key="team", quantity=2)
    with pytest.raises(RequestIdReusedError):
        await ann.asked(subscription_id, Operation.CANCEL_NOW, "update-1")
    assert await state(ann) is SourceState.ACTIVE


@pytest.mark.parametrize("fault", [lose_answer, lose_request], ids=["answer lost", "request lost"])
async def test_after_no_answer_the_same_key_changes_and_charges_once(ann: Subscriber, fault: Any) -> None:
    subscription_id = await ann.subscribed()
    ann.proxy.next(*path(subscription_id), fault)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, plan_key="team", quantity=4)
    changed = await ann.update(subscription_id, plan_key="team", quantity=4)
    assert (changed.plan_key, changed.quantity) == ("team", 4)
    assert len(await invoices(ann)) == 1


async def test_an_answer_that_stripe_replays_does_not_undo_what_came_after_it(ann: Subscriber) -> None:
    """The replay says "team" with 4 seats; since then somebody has set 7 in the dashboard."""
    subscription_id = await ann.subscribed()
    ann.proxy.next(*path(subscription_id), lose_answer)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, plan_key="team", quantity=4)
    item = (await ann.at_stripe(f"subscriptions/{subscription_id}"))["items"]["data"][0]["id"]
    await ann.at_stripe(f"subscriptions/{subscription_id}", "POST", **{"items[0][id]": item, "items[0][quantity]": "7"})
    changed = await ann.update(subscription_id, plan_key="team", quantity=4)
    assert changed.quantity == 7
    assert value_of(await ann.answer(), "seats") == 7


async def test_a_definite_error_takes_the_next_attempt_since_stripe_replays_it(database_url: str, clock: Clock) -> None:
    """Stripe fails once by itself, and keeps that answer for the key."""
    broken: list[str] = []

    async def intercept(request: web.Request) -> None:
        if broken and (request.method, request.path) == ("POST", broken[0]):
            broken.clear()
            raise ApiError("sorry", status=500, kind="api_error")

    async with stand_in(clock, intercept) as url, subscriber(database_url, url, clock) as ann:
        subscription_id = await ann.subscribed()
        broken.append(path(subscription_id)[1])
        with pytest.raises(StripeUnavailableError):
            await ann.update(subscription_id, plan_key="team")
        assert (await ann.update(subscription_id, plan_key="team")).plan_key == "team"


async def test_a_declined_card_changes_nothing_and_the_same_request_may_try_again(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    ann.proxy.next(*path(subscription_id), decline)
    with pytest.raises(PaymentFailedError) as raised:
        await ann.update(subscription_id, plan_key="team")
    assert raised.value.metadata == {"stripe_code": "card_declined"}
    assert (await ann.answer()).plan_keys == ("pro",)
    assert (await ann.update(subscription_id, plan_key="team")).plan_key == "team"


async def test_twenty_calls_at_once_with_one_id_change_and_charge_once(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    request = update_request(subscription_id, plan_key="team", quantity=4)
    answers = await asyncio.gather(*(ann.change(request) for _ in range(20)))
    assert len(set(answers)) == 1
    assert len(await invoices(ann)) == 1


async def test_another_change_waits_for_one_that_is_being_carried_out(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    arrived, go = asyncio.Event(), asyncio.Event()
    ann.proxy.next(*path(subscription_id), held(arrived, go))
    slow = asyncio.create_task(ann.update(subscription_id, plan_key="team"))
    await arrived.wait()
    with pytest.raises(RequestInProgressError):
        await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    go.set()
    assert (await slow).plan_key == "team"
    assert (await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")).state is SourceState.ENDED


async def test_a_stripe_that_hangs_is_unavailable_within_the_deadline_and_keeps_no_other_change_away(
    ann: Subscriber,
) -> None:
    subscription_id = await ann.subscribed()
    ann.proxy.next(*path(subscription_id), held(asyncio.Event(), asyncio.Event()))
    with deadline_after(1.0), pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, plan_key="team")
    assert (await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")).state is SourceState.ENDED


async def test_a_change_that_was_left_is_superseded_and_does_not_come_back(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    ann.proxy.next(*path(subscription_id), lose_request)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, plan_key="team")
    await ann.update(subscription_id, request_id="update-2", price_key="yearly")
    with pytest.raises(SubscriptionChangeSupersededError):
        await ann.update(subscription_id, plan_key="team")
    assert (await ann.answer()).plan_keys == ("pro",)


async def test_a_process_that_dies_between_the_phases_is_resumed_by_another(
    ann: Subscriber, database_url: str, stripe_url: str, clock: Clock
) -> None:
    subscription_id = await ann.subscribed()
    arrived = asyncio.Event()
    ann.proxy.next(*path(subscription_id), held(arrived, asyncio.Event()))
    dead = asyncio.create_task(ann.update(subscription_id, plan_key="team"))
    await arrived.wait()
    dead.cancel()
    await asyncio.wait({dead})
    async with subscriber(database_url, stripe_url, clock) as next_one:
        assert (await next_one.update(subscription_id, plan_key="team")).plan_key == "team"
    assert len(await invoices(ann)) == 1


async def test_an_unfinished_change_older_than_a_key_lives_begins_anew(ann: Subscriber, database_url: str) -> None:
    subscription_id = await ann.subscribed()
    ann.proxy.next(*path(subscription_id), lose_request)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, plan_key="team")
    with psycopg.connect(database_url) as connection:
        before = connection.execute("SELECT intent_id FROM subscription_requests").fetchone()
        connection.execute("UPDATE subscription_requests SET create_time = create_time - interval '23 hours 1 minute'")
    assert (await ann.update(subscription_id, plan_key="team")).plan_key == "team"
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT intent_id FROM subscription_requests").fetchone() != before


async def test_somebody_elses_subscription_is_not_found(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed("bob")
    for operation in (Operation.CANCEL_NOW, Operation.CANCEL_AT_PERIOD_END, Operation.RESUME):
        with pytest.raises(SubscriptionNotFoundError):
            await ann.asked(subscription_id, operation, "request-1")
    with pytest.raises(SubscriptionNotFoundError):
        await ann.update(subscription_id, plan_key="team")
    assert (await ann.answer("bob")).plan_keys == ("pro",)


async def test_a_subscription_that_is_over_cannot_be_changed(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    with pytest.raises(SubscriptionNotLiveError):
        await ann.update(subscription_id, plan_key="team")
    with pytest.raises(SubscriptionNotLiveError):
        await ann.asked(subscription_id, Operation.RESUME, "resume-1")


async def test_one_that_ended_unheard_is_found_over_and_leaves_nothing_unfinished(
    ann: Subscriber, database_url: str
) -> None:
    subscription_id = await ann.subscribed()
    await ann.control(f"subscriptions/{subscription_id}/cancel")
    with pytest.raises(SubscriptionNotLiveError):
        await ann.update(subscription_id, plan_key="team")
    assert (await ann.answer()).plan_keys == ("free",)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM subscription_requests").fetchone() == (0,)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"plan_key": "prp"}, PlanNotFoundError),
        ({"plan_key": "free"}, PlanNotForSaleError),
        ({"plan_key": "export_pass"}, PlanGroupMismatchError),
        ({"plan_key": "team", "price_key": "weekly"}, PriceNotFoundError),
        ({"quantity": 2}, InvalidFieldsError),
    ],
)
async def test_what_the_plan_cannot_become_is_refused_before_stripe_is_asked(
    ann: Subscriber, wanted: dict[str, Any], error: type[Exception]
) -> None:
    subscription_id = await ann.subscribed()
    with pytest.raises(error):
        await ann.update(subscription_id, **wanted)
    assert ann.proxy.calls[path(subscription_id)] == 0


async def test_a_quantity_alone_keeps_the_price_that_is_paid_even_one_no_longer_sold(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=2)
    price = (await ann.at_stripe(f"subscriptions/{subscription_id}"))["items"]["data"][0]["price"]["id"]
    await ann.at_stripe(f"prices/{price}", "POST", active="false")
    changed = await ann.update(subscription_id, quantity=5)
    assert (changed.plan_key, changed.quantity) == ("team", 5)
    assert (await ann.at_stripe(f"subscriptions/{subscription_id}"))["items"]["data"][0]["price"]["id"] == price


async def test_a_cancellation_at_period_end_shows_and_is_taken_back(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    cancelled = await ann.asked(subscription_id, Operation.CANCEL_AT_PERIOD_END, "cancel-1")
    assert (cancelled.state, cancelled.end_time) == (SourceState.ENDING, cancelled.period_end_time)
    assert await state(ann) is SourceState.ENDING
    resumed = await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    assert (resumed.state, resumed.end_time) == (SourceState.ACTIVE, None)
    assert await state(ann) is SourceState.ACTIVE


async def test_a_cancellation_that_only_names_a_time_is_taken_back_too(ann: Subscriber) -> None:
    """As the portal cancels under flexible billing: cancel_at without cancel_at_period_end."""
    subscription_id = await ann.subscribed()
    end = int((ann.clock() + timedelta(days=3)).timestamp())
    await ann.at_stripe(f"subscriptions/{subscription_id}", "POST", cancel_at=str(end))
    assert (await ann.asked(subscription_id, Operation.RESUME, "resume-1")).end_time is None
    assert (await ann.at_stripe(f"subscriptions/{subscription_id}"))["cancel_at"] is None


async def test_resuming_what_renews_changes_nothing(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    assert (await ann.asked(subscription_id, Operation.RESUME, "resume-1")).state is SourceState.ACTIVE
    assert ann.proxy.calls[path(subscription_id)] == 0


async def test_a_cancellation_now_ends_access_now_even_when_its_answer_is_lost(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    ann.proxy.next("DELETE", f"/v1/subscriptions/{subscription_id}", lose_answer)
    with pytest.raises(StripeUnavailableError):
        await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    ended = await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    assert ended.state is SourceState.ENDED
    assert ended.end_time is not None
    assert (await ann.answer()).plan_keys == ("free",)


async def test_a_downgrade_at_period_end_waits_for_it_and_costs_nothing(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    changed = await ann.update(subscription_id, at_period_end=True, plan_key="pro")
    assert (changed.plan_key, changed.quantity) == ("team", 4)
    waiting = changed.scheduled_change
    assert waiting is not None
    assert (waiting.plan_key, waiting.price_key, waiting.quantity) == ("pro", "monthly", 1)
    assert waiting.effective_time == changed.period_end_time
    assert value_of(await ann.answer(), "seats") == 4
    assert await invoices(ann) == []
    await ann.control(f"subscriptions/{subscription_id}/renew", outcome="paid")
    await ann.reads.subscription(subscription_id)
    assert (await ann.answer()).plan_keys == ("pro",)
    assert (await ann.at_stripe("invoices"))["data"][0]["total"] == 1200


async def under_schedule(ann: Subscriber, subscription: dict[str, Any]) -> None:
    """Have somebody in the dashboard put it under a schedule that says by itself how it is billed, as it is."""
    schedule = await ann.at_stripe("subscription_schedules", "POST", from_subscription=subscription["id"])
    (phase,), (item,) = schedule["phases"], subscription["items"]["data"]
    said = {
        "collection_method": "send_invoice", "invoice_settings][days_until_due": "21",
        "discounts][0][discount": subscription["discounts"][0], "start_date": str(phase["start_date"]),
        "end_date": str(phase["end_date"]), "items][0][price": item["price"]["id"], "items][0][quantity": "4",
    }  # fmt: skip
    path = f"subscription_schedules/{schedule['id']}"
    await ann.at_stripe(path, "POST", **{f"phases[0][{name}]": value for name, value in said.items()})


@pytest.mark.parametrize("by_phase", [False, True])
async def test_a_change_at_period_end_leaves_how_it_is_billed(ann: Subscriber, by_phase: bool) -> None:
    """What is sent to be paid is sent, with as many days to pay in, and what a coupon takes off is taken off."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    coupon = (await ann.at_stripe("coupons", "POST", percent_off="25", duration="forever"))["id"]
    path, sent = f"subscriptions/{subscription_id}", {"collection_method": "send_invoice", "days_until_due": "21"}
    await ann.at_stripe(path, "POST", **sent, **{"discounts[0][coupon]": coupon})
    before = await ann.subscription(subscription_id)
    if by_phase:
        await under_schedule(ann, before)
    await ann.update(subscription_id, at_period_end=True, plan_key="pro")
    await ann.update(subscription_id, at_period_end=True, request_id="update-2", quantity=2)
    await ann.control(f"{path}/renew", outcome="paid")
    after = await ann.subscription(subscription_id)
    billed = ("collection_method", "days_until_due", "discounts")
    assert {name: after[name] for name in billed} == {name: before[name] for name in billed}
    bill = (await ann.at_stripe("invoices"))["data"][0]
    assert (bill["status"], bill["total"]) == ("open", bill["subtotal"] * 3 // 4)


async def test_a_smaller_quantity_at_period_end_is_replaced_by_a_later_one(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.update(subscription_id, at_period_end=True, quantity=3)
    changed = await ann.update(subscription_id, at_period_end=True, request_id="update-2", quantity=2)
    assert changed.scheduled_change is not None
    assert changed.scheduled_change.quantity == 2
    resumed = await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    assert resumed.scheduled_change == changed.scheduled_change


@pytest.mark.parametrize(
    "since", [{"lookup_key": "pro_monthly", "quantity": 1}, {"quantity": 6}], ids=["plan", "seats"]
)
async def test_a_change_at_period_end_is_of_what_there_is_by_now_whatever_the_schedule_says_of_it(
    ann: Subscriber, since: dict[str, Any]
) -> None:
    """Somebody in the dashboard has changed a subscription past the schedule under which a change waits: it stays changed."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.update(subscription_id, at_period_end=True, quantity=3)
    await ann.control(f"subscriptions/{subscription_id}/change", **since)
    before = (await ann.subscription(subscription_id))["items"]
    changed = await ann.update(
        subscription_id, at_period_end=True, request_id="u-2", plan_key="pro", price_key="yearly"
    )
    assert (await ann.subscription(subscription_id))["items"] == before
    waiting = changed.scheduled_change
    assert waiting is not None
    assert (waiting.plan_key, waiting.price_key, waiting.quantity) == ("pro", "yearly", 1)
    await ann.control(f"subscriptions/{subscription_id}/renew", outcome="paid")
    (item,) = (await ann.subscription(subscription_id))["items"]["data"]
    assert (item["price"]["lookup_key"], item["quantity"]) == ("pro_yearly", 1)


@pytest.mark.parametrize("step", ["", "/{schedule}"], ids=["schedule", "phases"])
async def test_a_lost_answer_between_the_steps_of_a_schedule_is_resumed(ann: Subscriber, step: str) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    if step:  # a schedule is there already, so that its path is known
        await ann.update(subscription_id, at_period_end=True, request_id="update-0", quantity=3)
    schedule = (await ann.at_stripe(f"subscriptions/{subscription_id}"))["schedule"]
    ann.proxy.next("POST", f"/v1/subscription_schedules{step.format(schedule=schedule)}", lose_answer)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, at_period_end=True, quantity=2)
    changed = await ann.update(subscription_id, at_period_end=True, quantity=2)
    assert changed.scheduled_change is not None
    assert changed.scheduled_change.quantity == 2


@pytest.mark.parametrize("later", ["what there is", "a change now", "a cancellation"])
async def test_a_change_that_waits_is_dropped_by_a_later_request(ann: Subscriber, later: str) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.update(subscription_id, at_period_end=True, plan_key="pro")
    match later:
        case "what there is":
            changed = await ann.update(subscription_id, at_period_end=True, request_id="update-2", quantity=4)
        case "a change now":
            changed = await ann.update(subscription_id, request_id="update-2", quantity=6)
        case _:
            changed = await ann.asked(subscription_id, Operation.CANCEL_AT_PERIOD_END, "cancel-1")
    assert changed.scheduled_change is None
    assert (await ann.at_stripe(f"subscriptions/{subscription_id}"))["schedule"] is None


async def test_nothing_can_wait_for_the_end_of_a_subscription_that_ends_then(ann: Subscriber) -> None:
    """Whether we know of the cancellation, or Stripe tells us when asked."""
    subscription_id = await ann.subscribed()
    await ann.control(f"subscriptions/{subscription_id}/cancel", at_period_end=True)
    for _ in range(2):
        with pytest.raises(SubscriptionEndingError):
            await ann.update(subscription_id, at_period_end=True, plan_key="team")


async def test_a_request_id_is_one_customers_alone(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    other = await ann.subscribed("bob")
    await ann.update(subscription_id, plan_key="team")
    with pytest.raises(RequestIdReusedError):
        await ann.change(replace(update_request(other, plan_key="team"), customer_id="bob"))
    assert (await ann.answer("bob")).plan_keys == ("pro",)
