"""How the stand-in takes money otherwise than whole and by card: from a balance, in parts, elsewhere, less of it by a note or a coupon, and for extras."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.integration.sandbox_stripe.conftest import World
from tests.integration.sandbox_stripe.test_terms import HOUR_S, MONTH_END, _advance_to, _made, _read


async def _sent(world: World, **more: Any) -> Any:
    """Subscribe somebody who was sent 24.00 to pay."""
    made = await _made(world, collection_method="send_invoice", days_until_due=10, quantity=2, **more)
    await world.control("/clock", advance_s=HOUR_S)
    return await _read(world, made.id)


async def _balance(world: World, customer: str) -> int:
    return int((await world.client.v1.customers.retrieve_async(customer)).balance)


async def test_a_balance_pays_for_what_is_finalised_next_and_a_void_invoice_gives_it_back(world: World) -> None:
    customer = await world.customer()
    await world.control(f"/customers/{customer}/card", outcome="paid")
    await world.control(f"/customers/{customer}/balance", amount=-3000)
    made = await _made(world, customer=customer)
    bill = (await _read(world, made.id)).latest_invoice
    assert (made.status, bill.status, bill.total, bill.amount_due, bill.payments.data) == (
        "active",
        "paid",
        1200,
        0,
        [],
    )
    assert (bill.starting_balance, bill.ending_balance, await _balance(world, customer)) == (-3000, -1800, -1800)
    part = await _sent(world, customer=customer)
    bill = part.latest_invoice
    assert (bill.status, bill.total, bill.amount_due, await _balance(world, customer)) == ("open", 2400, 600, 0)
    await world.control(f"/invoices/{bill.id}/void")
    assert await _balance(world, customer) == -1800


async def test_a_page_of_a_subscription_is_paid_by_a_balance(world: World) -> None:
    customer = await world.customer()
    await world.control(f"/customers/{customer}/balance", amount=-1200)
    session = await world.session(customer=customer)
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="processing")
    done = await world.reread(session.id, "invoice")
    assert (done.payment_status, done.invoice.status, done.invoice.amount_due) == ("paid", "paid", 0)


async def test_a_change_that_credits_more_than_it_asks_for_is_in_the_balance_since(world: World) -> None:
    made = await world.bought()
    await world.control(f"/subscriptions/{made.subscription}/extra", amount=-500)
    credited = (await _read(world, made.subscription)).latest_invoice
    assert (credited.billing_reason, credited.status, credited.amount_due) == ("manual", "paid", 0)
    assert (credited.starting_balance, credited.ending_balance) == (0, -500)
    await _advance_to(world, MONTH_END + HOUR_S)
    assert (await _read(world, made.subscription)).latest_invoice.amount_due == 700


async def test_an_extra_is_the_latest_invoice_and_past_due_when_it_is_declined(world: World) -> None:
    made = await world.bought()
    await world.control(f"/customers/{made.customer}/card", outcome="declined")
    await world.control(f"/subscriptions/{made.subscription}/extra", amount=500)
    asked = await _read(world, made.subscription)
    assert (asked.status, asked.latest_invoice.status, asked.latest_invoice.total) == ("past_due", "open", 500)
    await world.control(f"/invoices/{asked.latest_invoice.id}/void")
    assert (await _read(world, made.subscription)).status == "active"


async def test_an_invoice_is_paid_in_parts_each_with_a_payment_of_its_own(world: World) -> None:
    sent = await _sent(world)
    path = f"/invoices/{sent.latest_invoice.id}"
    await world.control(f"{path}/pay_part", amount=900)
    await world.control(f"{path}/pay_part", expect=400, amount=1500)  # no part of what remains
    bill = (await _read(world, sent.id)).latest_invoice
    assert (bill.status, bill.amount_due, bill.amount_paid, bill.amount_remaining) == ("open", 2400, 900, 1500)
    await world.control(f"{path}/void", expect=400)
    await world.control(f"{path}/collect", outcome="paid")
    bill = (await _read(world, sent.id)).latest_invoice
    assert (bill.status, bill.amount_paid, bill.amount_remaining) == ("paid", 2400, 0)
    assert sorted(one.amount_paid for one in bill.payments.data) == [900, 1500]
    await world.delivered()
    assert world.receiver.types().count("invoice_payment.paid") == 2


async def test_an_invoice_that_was_written_off_may_be_paid_elsewhere(world: World) -> None:
    sent = await _sent(world)
    path = f"/invoices/{sent.latest_invoice.id}"
    await world.control(f"{path}/mark_uncollectible")
    await world.control(f"{path}/pay_elsewhere")
    bill = (await _read(world, sent.id)).latest_invoice
    assert (bill.status, bill.amount_paid, bill.amount_remaining) == ("paid", 2400, 0)
    assert {one.payment.type: one.status for one in bill.payments.data} == {
        "payment_record": "paid",
        "payment_intent": "canceled",
    }
    await world.control(f"{path}/pay_elsewhere", expect=400)


async def test_a_credit_note_takes_off_what_is_not_paid_and_gives_back_what_is(world: World) -> None:
    sent = await _sent(world)
    path = f"/invoices/{sent.latest_invoice.id}"
    await world.control(f"{path}/credit", amount=400)
    bill = (await _read(world, sent.id)).latest_invoice
    assert (bill.status, bill.total, bill.amount_due, bill.pre_payment_credit_notes_amount) == ("open", 2400, 2000, 400)
    await world.control(f"{path}/collect", outcome="paid")
    for amount, back in ((500, "refund"), (300, "balance"), (200, "elsewhere")):
        await world.control(f"{path}/credit", amount=amount, back=back)
    await world.control(f"{path}/credit", expect=400, amount=1001)
    bill = (await _read(world, sent.id)).latest_invoice
    assert (bill.status, bill.amount_paid, bill.post_payment_credit_notes_amount) == ("paid", 2000, 1000)
    assert await _balance(world, sent.customer) == -300
    refunds = (await world.client.v1.refunds.list_async()).data
    assert [refund.amount for refund in refunds] == [500]


async def test_a_credit_note_for_all_of_it_pays_an_invoice(world: World) -> None:
    late = await _sent(world)
    await _advance_to(world, late.latest_invoice.due_date)
    assert (await _read(world, late.id)).status == "past_due"
    await world.control(f"/invoices/{late.latest_invoice.id}/credit", amount=2400)
    paid = await _read(world, late.id)
    bill = paid.latest_invoice
    assert (paid.status, bill.status, bill.amount_due, bill.amount_paid) == ("active", "paid", 0, 0)
    await world.delivered()
    assert world.receiver.last("invoice.paid")["data"]["object"]["id"] == bill.id


@pytest.mark.parametrize(("off", "due"), [(500, 700), (99_900, 0)])
async def test_a_coupon_takes_an_amount_off_and_no_more_than_there_is(world: World, off: int, due: int) -> None:
    made = await world.client.v1.coupons.create_async({"amount_off": off, "currency": "eur", "duration": "once"})
    customer = await world.customer()
    await world.control(f"/customers/{customer}/card", outcome="paid")
    subscription = await _made(world, customer=customer, discounts=[{"coupon": made.id}])
    assert (await _read(world, subscription.id)).latest_invoice.amount_due == due
    await _advance_to(world, MONTH_END + HOUR_S)
    assert (await _read(world, subscription.id)).latest_invoice.amount_due == 1200
    for wrong in ({"amount_off": 500}, {"amount_off": 500, "currency": "eur", "percent_off": 5}, {}):
        with pytest.raises(stripe.InvalidRequestError):
            await world.client.v1.coupons.create_async({"duration": "once", **wrong})
