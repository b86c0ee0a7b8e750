"""A change never costs what was never owed, and never undoes what somebody else has set up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from aiohttp import web

from billing_service.domain.access import SourceState
from billing_service.domain.errors import (
    BillingError,
    InvalidFieldsError,
    PaymentFailedError,
    StripeUnavailableError,
    SubscriptionChangePendingError,
    SubscriptionNotFoundError,
    SubscriptionNotLiveError,
    SubscriptionPausedError,
    SubscriptionUnpaidError,
)
from billing_service.domain.subscription import Operation
from billing_service.storage import subscription_requests
from billing_service.storage.database import Database
from tests.integration.flows.subscriber import Subscriber, preview_request
from tests.stripe_proxy import Forward, lose_answer, lose_request


async def overdue(ann: Subscriber) -> str:
    """Give a subscription whose renewal was declined."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.set_card(subscription_id, "declined")
    await ann.control(f"subscriptions/{subscription_id}/renew", outcome="failed")
    assert (await ann.subscription(subscription_id))["status"] == "past_due"
    return subscription_id


async def update_invoices(ann: Subscriber) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ann.at_stripe("invoices"))["data"]
    return [invoice for invoice in found if invoice["billing_reason"] == "subscription_update"]


async def test_a_period_that_is_not_paid_is_not_credited(ann: Subscriber) -> None:
    """Nobody had told us of the failure: what Stripe says when asked decides. At its end it may change."""
    subscription_id = await overdue(ann)
    with pytest.raises(SubscriptionUnpaidError):
        await ann.update(subscription_id, plan_key="pro")
    with pytest.raises(SubscriptionUnpaidError):
        await ann.preview(preview_request(subscription_id, plan_key="pro"))
    assert await update_invoices(ann) == []
    changed = await ann.update(subscription_id, at_period_end=True, plan_key="pro")
    assert changed.scheduled_change is not None


async def test_a_change_whose_payment_is_on_its_way_bars_the_next_one_until_it_has_arrived(ann: Subscriber) -> None:
    """A bank debit takes days; the credit of a second change would be for what may never come."""
    subscription_id = await ann.subscribed()
    await ann.set_card(subscription_id, "processing")
    await ann.update(subscription_id, plan_key="team", quantity=4)
    with pytest.raises(SubscriptionUnpaidError):
        await ann.update(subscription_id, request_id="update-2", quantity=1)


async def test_a_payment_that_fails_leaves_the_change_that_waits(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    waiting = (
        await ann.update(subscription_id, at_period_end=True, request_id="later", plan_key="pro")
    ).scheduled_change
    await ann.set_card(subscription_id, "declined")
    with pytest.raises(PaymentFailedError):
        await ann.update(subscription_id, quantity=9)
    found = await ann.subscription(subscription_id)
    assert found["items"]["data"][0]["quantity"] == 4
    assert found["schedule"] is not None
    resumed = await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    assert resumed.scheduled_change == waiting
    await ann.set_card(subscription_id, "paid")
    assert (await ann.update(subscription_id, request_id="update-2", quantity=9)).quantity == 9
    assert (await ann.subscription(subscription_id))["schedule"] is None


@pytest.mark.parametrize("at_period_end", [True, False])
async def test_an_update_whose_payment_is_awaited_at_stripe_is_not_interfered_with(
    ann: Subscriber, at_period_end: bool
) -> None:
    subscription_id = await ann.subscribed()
    await ann.set_card(subscription_id, "declined")
    await ann.control(f"subscriptions/{subscription_id}/change", quantity=2, pending_if_incomplete=True)
    assert (await ann.subscription(subscription_id))["pending_update"] is not None
    with pytest.raises(SubscriptionChangePendingError) as raised:
        await ann.update(subscription_id, at_period_end=at_period_end, plan_key="team")
    assert raised.value.metadata == {"pending": "update"}
    # By now its open invoice is known too, which alone stands in the way of a change now.
    with pytest.raises(SubscriptionChangePendingError if at_period_end else SubscriptionUnpaidError):
        await ann.preview(preview_request(subscription_id, at_period_end=at_period_end, plan_key="team"))


@pytest.mark.parametrize("end", ["void", "paid"])
async def test_after_an_update_that_was_given_up_or_paid_the_subscription_is_changed_again(
    ann: Subscriber, end: str
) -> None:
    """The void invoice of a change says nothing of the period, which is paid."""
    subscription_id = await ann.subscribed()
    await ann.set_card(subscription_id, "declined")
    await ann.control(f"subscriptions/{subscription_id}/change", quantity=2, pending_if_incomplete=True)
    latest = (await ann.subscription(subscription_id))["latest_invoice"]
    await ann.control(
        f"invoices/{latest}/{'void' if end == 'void' else 'collect'}", **({} if end == "void" else {"outcome": "paid"})
    )
    await ann.set_card(subscription_id, "paid")
    await ann.reads.subscription(subscription_id)
    changed = await ann.update(subscription_id, plan_key="team")
    assert (changed.plan_key, changed.quantity) == ("team", 1 if end == "void" else 2)


async def scheduled_elsewhere(ann: Subscriber, subscription_id: str) -> str:
    """Put a subscription under a schedule as an operator would, with a year at the yearly price to come."""
    schedule = await ann.at_stripe("subscription_schedules", "POST", from_subscription=subscription_id)
    phase = schedule["phases"][0]
    yearly = (await ann.at_stripe("prices?lookup_keys[]=pro_yearly"))["data"][0]["id"]
    form = {
        "phases[0][start_date]": phase["start_date"], "phases[0][end_date]": phase["end_date"],
        "phases[0][items][0][price]": phase["items"][0]["price"], "phases[0][items][0][quantity]": 1,
        "phases[1][duration][interval]": "year", "phases[1][items][0][price]": yearly, "phases[1][items][0][quantity]": 1,
        "end_behavior": "release",
    }  # fmt: skip
    await ann.at_stripe(f"subscription_schedules/{schedule['id']}", "POST", **{k: str(v) for k, v in form.items()})
    return str(schedule["id"])


async def test_a_schedule_that_we_did_not_make_is_not_touched(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    schedule = await scheduled_elsewhere(ann, subscription_id)
    before = await ann.at_stripe(f"subscription_schedules/{schedule}")
    for at_period_end in (True, False):
        with pytest.raises(SubscriptionChangePendingError) as raised:
            await ann.update(subscription_id, at_period_end=at_period_end, plan_key="team")
        assert raised.value.metadata == {"pending": "schedule"}
    with pytest.raises(SubscriptionChangePendingError):
        await ann.asked(subscription_id, Operation.CANCEL_AT_PERIOD_END, "cancel-1")
    assert await ann.at_stripe(f"subscription_schedules/{schedule}") == before
    assert await update_invoices(ann) == []
    assert (await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-2")).state is SourceState.ENDED


async def ended(ann: Subscriber, subscription_id: str) -> None:
    """Cancel a subscription in the dashboard."""
    await ann.at_stripe(f"subscriptions/{subscription_id}", "DELETE")


@pytest.mark.parametrize(
    ("meanwhile", "told"), [(ended, SubscriptionNotLiveError), (scheduled_elsewhere, SubscriptionChangePendingError)]
)
async def test_what_became_of_a_subscription_since_it_was_read_is_what_the_caller_is_told(
    ann: Subscriber, meanwhile: Callable[[Subscriber, str], Awaitable[object]], told: type[BillingError]
) -> None:
    """Stripe refuses to make a schedule of it. That calling again changes nothing would be all that is said of that."""
    subscription_id = await ann.subscribed()

    async def late(_request: web.Request, forward: Forward) -> web.StreamResponse:
        await meanwhile(ann, subscription_id)
        return await forward()

    ann.proxy.next("POST", "/v1/subscription_schedules", late)
    with pytest.raises(told):
        await ann.update(subscription_id, at_period_end=True, plan_key="team")


async def test_what_another_deployment_sold_is_not_found(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await ann.at_stripe(f"subscriptions/{subscription_id}", "POST", **{"metadata[billing_deployment]": "other"})
    with pytest.raises(SubscriptionNotFoundError):
        await ann.update(subscription_id, plan_key="team")
    with pytest.raises(SubscriptionNotFoundError):
        await ann.preview(preview_request(subscription_id, plan_key="team"))
    with pytest.raises(SubscriptionNotFoundError):
        await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    assert (await ann.subscription(subscription_id))["status"] == "active"


async def test_what_changed_in_the_dashboard_a_moment_ago_decides(ann: Subscriber) -> None:
    """We believe in a plan sold by the seat; Stripe says one that is not."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.control(f"subscriptions/{subscription_id}/change", lookup_key="pro_monthly", quantity=1)
    with pytest.raises(InvalidFieldsError):
        await ann.update(subscription_id, quantity=9)
    assert (await ann.subscription(subscription_id))["items"]["data"][0]["quantity"] == 1


async def test_a_paused_subscription_is_resumed_and_not_changed_before(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await ann.control(f"subscriptions/{subscription_id}/pause")
    for at_period_end in (True, False):
        with pytest.raises(SubscriptionPausedError):
            await ann.update(subscription_id, at_period_end=at_period_end, plan_key="team")
    resumed = await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    assert resumed.state is SourceState.ACTIVE
    assert (await ann.answer()).plan_keys == ("pro",)


async def test_a_paused_subscription_whose_payment_fails_stays_paused_and_says_so(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await ann.control(f"subscriptions/{subscription_id}/pause")
    await ann.set_card(subscription_id, "declined")
    assert (await ann.asked(subscription_id, Operation.RESUME, "resume-1")).state is SourceState.PAUSED


async def test_collection_that_is_paused_is_resumed_only_where_nothing_else_was_to_be(ann: Subscriber) -> None:
    """A cancellation is taken back first, also when its answer is lost and the call is repeated."""
    subscription_id = await ann.subscribed()
    path = f"subscriptions/{subscription_id}"
    await ann.at_stripe(path, "POST", **{"pause_collection[behavior]": "void", "cancel_at_period_end": "true"})
    ann.proxy.next("POST", f"/v1/{path}", lose_answer)
    with pytest.raises(StripeUnavailableError):
        await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    assert (await ann.subscription(subscription_id))["pause_collection"] is not None
    await ann.asked(subscription_id, Operation.RESUME, "resume-2")
    assert (await ann.subscription(subscription_id))["pause_collection"] is None


async def test_a_first_payment_that_is_awaited_can_only_be_cancelled(ann: Subscriber, database_url: str) -> None:
    subscription_id = await ann.subscribed()
    with psycopg.connect(database_url) as connection:  # as if Stripe had told us so
        connection.execute("""
            UPDATE customers SET facts = jsonb_set(facts, '{subscriptions,0,status}', '"incomplete"')
        """)
    for at_period_end in (True, False):
        with pytest.raises(SubscriptionNotLiveError):
            await ann.update(subscription_id, at_period_end=at_period_end, plan_key="team")
    assert (await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")).state is SourceState.ENDED


async def test_a_change_in_a_trial_keeps_the_trial_and_costs_nothing(ann: Subscriber) -> None:
    """The stand-in refuses a schedule that would end one."""
    subscription_id = await trial(ann)
    trial_end = (await ann.subscription(subscription_id))["trial_end"]
    waiting = (
        await ann.update(subscription_id, at_period_end=True, request_id="later", plan_key="pro")
    ).scheduled_change
    assert waiting is not None
    assert int(waiting.effective_time.timestamp()) == trial_end
    found = await ann.subscription(subscription_id)
    assert (found["status"], found["trial_end"]) == ("trialing", trial_end)
    changed = await ann.update(subscription_id, quantity=3)
    assert (changed.state, changed.quantity) == (SourceState.TRIALING, 3)
    invoices = (await ann.at_stripe(f"invoices?subscription={subscription_id}"))["data"]
    assert [invoice["total"] for invoice in invoices] == [0]


async def trial(ann: Subscriber) -> str:
    """Give a subscription to team that was sold with a trial."""
    await ann.subscribed()
    (customer,) = (await ann.at_stripe("customers"))["data"]
    price = (await ann.at_stripe("prices?lookup_keys[]=team_monthly"))["data"][0]["id"]
    form = {
        "customer": customer["id"], "mode": "subscription", "success_url": "https://shop.example/done",
        "line_items[0][price]": price, "line_items[0][quantity]": "2",
        "subscription_data[trial_period_days]": "14", "subscription_data[metadata][billing_deployment]": "default",
    }  # fmt: skip
    session = await ann.at_stripe("checkout/sessions", "POST", **form)
    await ann.control(f"checkout/sessions/{session['id']}/complete", outcome="paid")
    found = (await ann.reads.checkout_session(session["id"])).subscription_id
    assert found is not None
    return found


async def test_a_schedules_answer_that_stripe_replays_is_not_told_as_news(ann: Subscriber) -> None:
    """The change was made, unheard of, and then let go in the dashboard; to repeat the call does not bring it back."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    ann.proxy.nth(4, lose_answer)  # the subscription, the new price's period, the schedule, its phases
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, at_period_end=True, plan_key="pro")
    schedule = (await ann.subscription(subscription_id))["schedule"]
    assert len((await ann.at_stripe(f"subscription_schedules/{schedule}"))["phases"]) == 2
    await ann.at_stripe(f"subscription_schedules/{schedule}/release", "POST")
    assert (await ann.update(subscription_id, at_period_end=True, plan_key="pro")).scheduled_change is None
    assert (await ann.subscription(subscription_id))["schedule"] is None


async def test_a_change_that_somebody_takes_up_again_cannot_be_superseded_and_the_reverse(
    ann: Subscriber, database_url: str
) -> None:
    """Whichever comes first in the database; else the older change could reach Stripe after the newer one."""
    subscription_id = await ann.subscribed()
    ann.proxy.next("POST", f"/v1/subscriptions/{subscription_id}", lose_request)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, plan_key="team")
    database = Database(database_url)
    now = ann.clock()
    change = await database.run(lambda c: subscription_requests.find(c, "update-1"))
    assert change is not None
    intent = change.intent_id
    assert await database.run(lambda c: subscription_requests.hold(c, intent, now + timedelta(seconds=60)))
    assert not await database.run(lambda c: subscription_requests.supersede(c, intent, now))
    await database.run(lambda c: subscription_requests.let_go(c, intent, now))  # of another call: still held
    assert not await database.run(lambda c: subscription_requests.supersede(c, intent, now))
    await database.run(lambda c: subscription_requests.let_go(c, intent, now + timedelta(seconds=60)))
    assert await database.run(lambda c: subscription_requests.supersede(c, intent, now))
    assert not await database.run(lambda c: subscription_requests.hold(c, intent, now + timedelta(seconds=60)))
    await database.close()
