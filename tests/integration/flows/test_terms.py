"""What a customer has by a subscription that asks for nothing at first, or sends an invoice: at Stripe, read, and answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.checkout import CheckoutRequest
from tests.integration.flows.subscriber import Clock, Subscriber, stand_in, subscriber

TRIAL = {"trial_period_days": "7"}
OVERDUE, PENDING = SourceState.PAYMENT_OVERDUE, SourceState.PENDING_PAYMENT
ACTIVE, GRACE = SourceState.ACTIVE, SourceState.GRACE


@pytest.fixture
async def ann(database_url: str) -> AsyncIterator[Subscriber]:
    """A process and a Stripe, each with a clock of its own; `later` moves both."""
    async with stand_in(Clock()) as url, subscriber(database_url, url, Clock()) as one:
        yield one


async def later(ann: Subscriber, **passed: int) -> None:
    """Let time pass, and Stripe do what falls due."""
    time = timedelta(**passed)
    await ann.control("clock", advance_s=int(time.total_seconds()))
    ann.clock.ahead += time


async def by_hand(ann: Subscriber, **terms: str) -> str:
    """Have somebody in the dashboard subscribe Ann, who has left no card."""
    price = (await ann.at_stripe("prices?lookup_keys[]=pro_monthly"))["data"][0]["id"]
    ours = {"metadata[billing_deployment]": "default", "metadata[billing_customer_id]": "ann"}
    customer = (await ann.at_stripe("customers", "POST", **ours))["id"]
    item = {"items[0][price]": price}
    made = await ann.at_stripe("subscriptions", "POST", customer=customer, **item, **ours, **terms)
    return str(made["id"])


async def state(ann: Subscriber, subscription_id: str) -> SourceState:
    """Read the subscription from Stripe, and say how it stands."""
    await ann.reads.subscription(subscription_id)
    sources = (await ann.answer()).sources
    (found,) = [source.state for source in sources if source.stripe_subscription_id == subscription_id]
    return found


@pytest.mark.parametrize("plan_key", ["pro", "export_pass"])
async def test_what_costs_nothing_by_a_code_is_bought_like_anything_else(ann: Subscriber, plan_key: str) -> None:
    """No card can be declined, for none is asked for; nor at a renewal."""
    request = CheckoutRequest(
        request_id="buy", customer_id="ann", plan_key=plan_key, price_key=None, quantity=1,
        success_url="https://shop.example/done", cancel_url="https://shop.example/plans", customer_email=None,
        allow_promotion_codes=True, metadata={},
    )  # fmt: skip
    session_id = (await ann.buy(request)).session.checkout_session_id
    coupon = (await ann.at_stripe("coupons", "POST", percent_off="100", duration="forever"))["id"]
    await ann.control(f"checkout/sessions/{session_id}/redeem", coupon=coupon)
    await ann.control(f"checkout/sessions/{session_id}/complete", outcome="declined")
    bought = await ann.reads.checkout_session(session_id)
    assert plan_key in (await ann.answer()).plan_keys
    if bought.subscription_id is not None:
        await later(ann, days=32)
        assert await state(ann, bought.subscription_id) is ACTIVE


@pytest.mark.parametrize(
    ("behavior", "end"), [("cancel", SourceState.ENDED), ("pause", SourceState.PAUSED), ("create_invoice", GRACE)]
)
async def test_a_trial_without_a_card_ends_as_its_settings_say(
    ann: Subscriber, behavior: str, end: SourceState
) -> None:
    """An invoice that cannot be collected is one of a renewal like any other: it has the plan's grace, and no more."""
    subscription_id = await by_hand(ann, **TRIAL, **{"trial_settings[end_behavior][missing_payment_method]": behavior})
    assert await state(ann, subscription_id) is SourceState.TRIALING
    await later(ann, days=7, hours=2)
    assert await state(ann, subscription_id) is end
    await later(ann, days=8)
    assert (await ann.answer()).plan_keys == ("free",)


async def test_a_card_that_comes_before_the_trial_ends_is_charged_then(ann: Subscriber) -> None:
    subscription_id = await by_hand(ann, **TRIAL, **{"trial_settings[end_behavior][missing_payment_method]": "cancel"})
    await ann.set_card(subscription_id, "paid")
    await later(ann, days=7, hours=2)
    assert await state(ann, subscription_id) is ACTIVE


async def test_who_is_sent_invoices_has_the_plan_from_the_first_payment_and_until_the_grace_of_one_is_over(
    ann: Subscriber,
) -> None:
    """The grace is counted from when it was due, though a card was declined before that."""
    subscription_id = await by_hand(ann, collection_method="send_invoice", days_until_due="14")
    assert await state(ann, subscription_id) is PENDING
    await later(ann, hours=2)
    assert await state(ann, subscription_id) is PENDING
    first = (await ann.subscription(subscription_id))["latest_invoice"]
    await ann.control(f"invoices/{first}/collect", outcome="paid")
    assert await state(ann, subscription_id) is ACTIVE
    await later(ann, days=32)
    second = (await ann.subscription(subscription_id))["latest_invoice"]
    await ann.control(f"invoices/{second}/collect", outcome="failed")
    assert (second != first, await state(ann, subscription_id)) == (True, ACTIVE)
    await later(ann, days=14)
    assert await state(ann, subscription_id) is GRACE
    await later(ann, days=4)
    assert await state(ann, subscription_id) is GRACE
    await later(ann, days=2)
    assert await state(ann, subscription_id) is OVERDUE
    await ann.control(f"invoices/{second}/collect", outcome="paid")
    assert await state(ann, subscription_id) is ACTIVE


async def test_who_was_sent_an_invoice_and_paid_nothing_has_nothing_in_the_next_period_either(ann: Subscriber) -> None:
    """It has 45 days to be paid in, and the period 31 at most."""
    subscription_id = await by_hand(ann, collection_method="send_invoice", days_until_due="45")
    assert await state(ann, subscription_id) is PENDING
    await later(ann, hours=2)
    assert await state(ann, subscription_id) is PENDING
    await later(ann, days=32)
    assert await state(ann, subscription_id) is PENDING


async def test_a_change_now_of_who_is_sent_invoices_takes_effect_at_once_and_is_invoiced(ann: Subscriber) -> None:
    """Nothing can be collected, and so nothing fails; what was not paid by when it was due has the plan's grace."""
    subscription_id = await by_hand(ann, collection_method="send_invoice", days_until_due="14")
    await later(ann, hours=2)
    first = (await ann.subscription(subscription_id))["latest_invoice"]
    await ann.control(f"invoices/{first}/collect", outcome="paid")
    assert await state(ann, subscription_id) is ACTIVE
    await ann.update(subscription_id, plan_key="team", quantity=3)
    assert (await ann.answer()).plan_keys == ("team",)
    change = (await ann.at_stripe("invoices"))["data"][0]
    assert (change["status"], change["billing_reason"]) == ("open", "subscription_update")
    await later(ann, days=14)
    assert await state(ann, subscription_id) is GRACE
    await ann.control(f"invoices/{change['id']}/void")
    assert await state(ann, subscription_id) is ACTIVE
