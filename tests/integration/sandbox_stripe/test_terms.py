"""On which terms a subscription may begin and be paid: tried without a card, for nothing by a coupon, or by an invoice that is sent."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.integration.sandbox_stripe.conftest import World

DAY_S = 86_400
HOUR_S = 3_600
START = 1_800_000_000
MONTH_END = 1_802_678_400  # 15 Jan to 15 Feb 2027


async def _advance_to(world: World, moment: int) -> None:
    async with world.http.get(f"{world.url}/_control/clock") as response:
        now = (await response.json())["now"]
    await world.control("/clock", advance_s=moment - now)


async def _made(world: World, **params: Any) -> Any:
    """Subscribe a new customer by hand."""
    customer = params.pop("customer", None) or await world.customer()
    items = [{"price": await world.price("pro_monthly"), "quantity": params.pop("quantity", 1)}]
    return await world.client.v1.subscriptions.create_async({"customer": customer, "items": items, **params})


async def _read(world: World, subscription_id: str) -> Any:
    expand = {"expand": ["latest_invoice.payments"]}
    return await world.client.v1.subscriptions.retrieve_async(subscription_id, expand)


async def _coupon(world: World, duration: str, percent: int = 100, **more: Any) -> str:
    made = await world.client.v1.coupons.create_async({"percent_off": percent, "duration": duration, **more})
    return str(made.id)


@pytest.mark.parametrize(
    ("behavior", "status", "invoice"),
    [("create_invoice", "past_due", "open"), ("pause", "paused", "paid"), ("cancel", "canceled", "paid")],
)
async def test_a_trial_by_hand_needs_no_card_and_ends_as_its_settings_say(
    world: World, behavior: str, status: str, invoice: str
) -> None:
    trial = {"trial_settings": {"end_behavior": {"missing_payment_method": behavior}}, "trial_period_days": 7}
    made = await _made(world, **trial)
    assert made.status == "trialing"
    await _advance_to(world, START + 7 * DAY_S + HOUR_S)
    ended = await _read(world, made.id)
    assert (ended.status, ended.latest_invoice.status) == (status, invoice)


async def test_a_card_that_comes_in_a_trial_or_goes_decides_at_its_end(world: World) -> None:
    given = await _made(world, trial_period_days=7)
    await world.control(f"/customers/{given.customer}/card", outcome="paid")
    kept = await world.bought(subscription_data={"trial_period_days": 7})
    await world.control(f"/customers/{kept.customer}/card", outcome="none")
    settings = {"trial_settings": {"end_behavior": {"missing_payment_method": "pause"}}}
    await world.client.v1.subscriptions.update_async(kept.subscription, settings)
    await _advance_to(world, START + 7 * DAY_S + HOUR_S)
    statuses = [(await _read(world, one)).status for one in (given.id, kept.subscription)]
    assert statuses == ["active", "paused"]


async def test_a_code_for_all_of_it_leaves_nothing_to_pay_now_and_at_each_renewal(world: World) -> None:
    session = await world.session(allow_promotion_codes=True)
    coupon = await _coupon(world, "forever")
    await world.control(f"/checkout/sessions/{session.id}/redeem", coupon=coupon)
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="declined")
    done = await world.reread(session.id)
    assert (done.status, done.payment_status, done.amount_total) == ("complete", "no_payment_required", 0)
    assert (done.amount_subtotal, done.total_details.amount_discount) == (1200, 1200)
    await _advance_to(world, MONTH_END + HOUR_S)
    renewed = await _read(world, done.subscription)
    bill = renewed.latest_invoice
    assert (renewed.status, bill.status, bill.billing_reason) == ("active", "paid", "subscription_cycle")
    assert (bill.subtotal, bill.total, bill.amount_due, bill.attempt_count, bill.payments.data) == (1200, 0, 0, 0, [])
    assert bill.total_discount_amounts[0].to_dict() == {"amount": 1200, "discount": renewed.discounts[0]}
    await world.delivered()
    assert not [kind for kind in world.receiver.types() if kind.startswith(("payment_intent", "charge"))]
    created = world.receiver.last("customer.subscription.created")["data"]["object"]
    assert created["status"] == "active"


@pytest.mark.parametrize(
    ("duration", "more", "due"),
    [("once", {}, [1200, 1200]), ("repeating", {"duration_in_months": 1}, [1200, 1200]), ("forever", {}, [600, 600])],
)
async def test_a_discount_lasts_as_long_as_its_coupon_says(
    world: World, duration: str, more: dict[str, int], due: list[int]
) -> None:
    session = await world.session(allow_promotion_codes=True)
    coupon = await _coupon(world, duration, 50, **more)
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="declined")  # for the whole amount
    await world.control(f"/checkout/sessions/{session.id}/redeem", coupon=coupon)
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="paid")
    done = await world.reread(session.id)
    asked = [(await _read(world, done.subscription)).latest_invoice.amount_paid]
    for moment in (MONTH_END, MONTH_END + 28 * DAY_S):
        await _advance_to(world, moment + HOUR_S)
        asked.append((await _read(world, done.subscription)).latest_invoice.amount_paid)
    assert asked == [600, *due]


async def test_a_purchase_that_costs_nothing_has_no_payment(world: World) -> None:
    session = await world.session("pass", allow_promotion_codes=True)
    await world.control(f"/checkout/sessions/{session.id}/redeem", coupon=await _coupon(world, "once"))
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="processing")
    done = await world.reread(session.id)
    assert (done.status, done.payment_status, done.payment_intent) == ("complete", "no_payment_required", None)


async def test_a_page_takes_a_code_only_where_it_says_so(world: World) -> None:
    coupon = await _coupon(world, "once")
    session = await world.session()
    await world.control(f"/checkout/sessions/{session.id}/redeem", expect=400, coupon=coupon)
    with pytest.raises(stripe.InvalidRequestError, match="repeating"):
        await _coupon(world, "repeating")


async def test_an_invoice_that_is_sent_is_a_draft_then_open_then_overdue_and_may_be_paid_late(world: World) -> None:
    made = await _made(world, collection_method="send_invoice", days_until_due=10)
    first = await _read(world, made.id)
    assert (made.status, first.latest_invoice.status, first.latest_invoice.due_date) == ("active", "draft", None)
    await _advance_to(world, START + HOUR_S)
    due = START + HOUR_S + 10 * DAY_S
    sent = await _read(world, made.id)
    assert (sent.status, sent.latest_invoice.status, sent.latest_invoice.due_date) == ("active", "open", due)
    await world.control(f"/invoices/{sent.latest_invoice.id}/collect", outcome="failed")  # who pays tries a card
    assert (await _read(world, made.id)).status == "active"
    await _advance_to(world, due)
    assert (await _read(world, made.id)).status == "past_due"
    await world.control(f"/invoices/{sent.latest_invoice.id}/collect", outcome="paid")
    assert (await _read(world, made.id)).status == "active"
    await _advance_to(world, MONTH_END + HOUR_S)
    renewed = await _read(world, made.id)
    assert (renewed.status, renewed.latest_invoice.status) == ("active", "open")
    await world.delivered()
    told = [event["created"] for event in world.receiver.events if event["type"] == "invoice.overdue"]
    assert (told, world.receiver.types().count("invoice.sent")) == ([due], 2)


@pytest.mark.parametrize("how", ["void", "mark_uncollectible"])
async def test_a_sent_invoice_that_is_not_owed_any_more_makes_it_active(world: World, how: str) -> None:
    made = await _made(world, collection_method="send_invoice", days_until_due=1)
    await _advance_to(world, START + HOUR_S + DAY_S)
    await world.control(f"/invoices/{made.latest_invoice}/{how}")
    assert (await _read(world, made.id)).status == "active"


async def test_what_was_overdue_and_is_paid_decides_while_the_next_invoice_is_a_draft(world: World) -> None:
    made = await _made(world, collection_method="send_invoice", days_until_due=1)
    await _advance_to(world, MONTH_END)
    overdue = await _read(world, made.id)
    assert (overdue.status, overdue.latest_invoice.status) == ("past_due", "draft")
    await world.control(f"/invoices/{made.latest_invoice}/collect", outcome="paid")
    assert (await _read(world, made.id)).status == "active"


async def test_an_invoice_that_is_never_paid_ends_it_thirty_days_after_it_was_due(world: World) -> None:
    made = await _made(world, collection_method="send_invoice", days_until_due=0)
    await world.control("/settings", after_dunning="unpaid")
    await _advance_to(world, START + HOUR_S + 29 * DAY_S)
    assert (await _read(world, made.id)).status == "past_due"
    await _advance_to(world, START + HOUR_S + 30 * DAY_S)
    assert (await _read(world, made.id)).status == "unpaid"


async def test_a_change_of_what_is_sent_takes_effect_and_its_invoice_waits(world: World) -> None:
    """`payment_behavior` is for what is charged: https://docs.stripe.com/api/subscriptions/update."""
    session = await world.bought()
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    subscription = await _read(world, session.subscription)
    item = {"id": subscription["items"].data[0].id, "quantity": 3}
    for behavior in ("error_if_incomplete", "pending_if_incomplete"):
        change: Any = {"items": [item], "payment_behavior": behavior, "proration_behavior": "always_invoice"}
        await world.client.v1.subscriptions.update_async(
            session.subscription, {"collection_method": "send_invoice", "days_until_due": 7}
        )
        await world.client.v1.subscriptions.update_async(session.subscription, change)
        changed = await _read(world, session.subscription)
        assert (changed.status, changed["items"].data[0].quantity) == ("active", item["quantity"])
        assert (changed.latest_invoice.status, changed.latest_invoice.due_date) == ("open", START + 7 * DAY_S)
        item = {**item, "quantity": 5}


async def test_by_hand_a_card_is_charged_at_once_and_without_one_somebody_is_asked_within_a_day(world: World) -> None:
    customer = await world.customer()
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        await _made(world, customer=customer)
    waiting = await _made(world, customer=customer, payment_behavior="default_incomplete")
    assert waiting.status == "incomplete"
    statuses = []
    for outcome in ("paid", "declined", "processing"):
        await world.control(f"/customers/{customer}/card", outcome=outcome)
        statuses.append((await _made(world, customer=customer)).status)
    assert statuses == ["active", "incomplete", "active"]
    await _advance_to(world, START + DAY_S)
    assert (await _read(world, waiting.id)).status == "incomplete_expired"


async def test_a_first_debit_of_no_page_settles_by_itself(world: World) -> None:
    customer = await world.customer()
    await world.control(f"/customers/{customer}/card", outcome="processing")
    made = await _made(world, customer=customer)
    await _advance_to(world, START + 5 * DAY_S)
    assert (await _read(world, made.id)).latest_invoice.status == "paid"


async def test_one_that_is_paused_because_nobody_paid_runs_again_once_somebody_does(world: World) -> None:
    session = await world.bought()
    await world.control("/settings", after_dunning="paused")
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    await _advance_to(world, MONTH_END + HOUR_S + 40 * DAY_S)
    paused = await _read(world, session.subscription)
    assert (paused.status, paused.latest_invoice.status) == ("paused", "open")
    assert paused.status_details.paused.subscription.type == "final_payment_failure"
    await world.control(f"/invoices/{paused.latest_invoice.id}/collect", outcome="paid")
    resumed = await _read(world, session.subscription)
    assert (resumed.status, resumed.status_details) == ("active", None)


async def test_of_none_of_it_nothing_is_asked(world: World) -> None:
    """A quantity of 0 is one that Stripe takes."""
    session = await world.bought()
    await world.control(f"/subscriptions/{session.subscription}/change", quantity=0)
    await _advance_to(world, MONTH_END + HOUR_S)
    renewed = await _read(world, session.subscription)
    assert (renewed["items"].data[0].quantity, renewed.latest_invoice.total) == (0, 0)
    assert (renewed.status, renewed.latest_invoice.status) == ("active", "paid")
