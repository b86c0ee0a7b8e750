from __future__ import annotations

import pytest
import stripe

from tests.integration.sandbox_stripe.conftest import World

FEB_15 = 1_802_678_400  # the end of the first month
MAR_15 = 1_805_097_600


async def test_a_renewal_moves_the_items_period_and_pays_a_cycle_invoice(world: World) -> None:
    session = await world.bought()
    await world.control(f"/subscriptions/{session.subscription}/renew", outcome="paid")
    subscription = await world.client.v1.subscriptions.retrieve_async(
        session.subscription, {"expand": ["latest_invoice"]}
    )
    item = subscription["items"].data[0]
    assert (item.current_period_start, item.current_period_end) == (FEB_15, MAR_15)
    invoice = subscription.latest_invoice
    assert (invoice.billing_reason, invoice.status) == ("subscription_cycle", "paid")


async def test_a_failed_renewal_is_past_due_until_its_invoice_is_collected(world: World) -> None:
    session = await world.bought()
    renewed = await world.control(f"/subscriptions/{session.subscription}/renew", outcome="failed")
    assert renewed["status"] == "past_due"
    await world.control(f"/invoices/{renewed['latest_invoice']}/collect", outcome="failed")
    invoice = await world.client.v1.invoices.retrieve_async(renewed["latest_invoice"])
    assert (invoice.status, invoice.attempt_count) == ("open", 2)
    await world.control(f"/invoices/{invoice.id}/collect", outcome="paid")
    assert (await world.client.v1.subscriptions.retrieve_async(session.subscription)).status == "active"
    await world.delivered()
    assert world.receiver.types().count("invoice.payment_failed") == 2


async def test_cancelling_at_the_periods_end_keeps_it_active_until_then(world: World) -> None:
    session = await world.bought()
    cancelling = await world.client.v1.subscriptions.update_async(session.subscription, {"cancel_at_period_end": True})
    assert (cancelling.status, cancelling.cancel_at_period_end, cancelling.cancel_at) == ("active", True, FEB_15)
    world.clock.now = FEB_15
    world.stand_in.advance()
    ended = await world.client.v1.subscriptions.retrieve_async(session.subscription)
    assert (ended.status, ended.ended_at) == ("canceled", FEB_15)
    await world.delivered()
    assert world.receiver.last("customer.subscription.deleted")["data"]["object"]["status"] == "canceled"


async def test_a_cancellation_can_be_taken_back(world: World) -> None:
    session = await world.bought()
    await world.control(f"/subscriptions/{session.subscription}/cancel", at_period_end=True)
    kept = await world.client.v1.subscriptions.update_async(session.subscription, {"cancel_at_period_end": False})
    assert (kept.cancel_at, kept.canceled_at, kept.cancel_at_period_end) == (None, None, False)


async def test_cancelling_now_is_final(world: World) -> None:
    session = await world.bought()
    canceled = await world.client.v1.subscriptions.cancel_async(session.subscription)
    assert canceled.status == "canceled"
    with pytest.raises(stripe.InvalidRequestError, match="No such subscription"):
        await world.client.v1.subscriptions.cancel_async(session.subscription)
    with pytest.raises(stripe.InvalidRequestError, match="A canceled subscription can only update"):
        await world.client.v1.subscriptions.update_async(session.subscription, {"cancel_at_period_end": True})
    assert (await world.client.v1.subscriptions.list_async()).data == []
    assert len((await world.client.v1.subscriptions.list_async({"status": "all"})).data) == 1


async def test_changing_the_plan_keeps_the_item_and_tells_its_former_price(world: World) -> None:
    session = await world.bought()
    before = await world.client.v1.subscriptions.retrieve_async(session.subscription)
    item_id = before["items"].data[0].id
    yearly = await world.price("pro_yearly")
    after = await world.client.v1.subscriptions.update_async(
        session.subscription, {"items": [{"id": item_id, "price": yearly, "quantity": 3}]}
    )
    item = after["items"].data[0]
    assert (item.id, item.price.id, item.quantity) == (item_id, yearly, 3)
    assert item.current_period_end == 1_800_000_000 + 365 * 86_400
    await world.delivered()
    previous = world.receiver.events[-1]["data"]["previous_attributes"]
    assert previous["items"]["data"][0]["price"]["lookup_key"] == "pro_monthly"


async def test_changing_the_quantity_alone_keeps_the_period(world: World) -> None:
    session = await world.bought()
    before = (await world.client.v1.subscriptions.retrieve_async(session.subscription))["items"].data[0]
    after = await world.client.v1.subscriptions.update_async(
        session.subscription, {"items": [{"id": before.id, "quantity": 5}]}
    )
    item = after["items"].data[0]
    assert (item.quantity, item.current_period_end) == (5, before.current_period_end)


async def test_deleting_a_customer_ends_what_it_pays_for(world: World) -> None:
    session = await world.bought()
    deleted = await world.client.v1.customers.delete_async(session.customer)
    assert deleted.deleted is True
    assert (await world.client.v1.customers.retrieve_async(session.customer)).deleted is True
    assert (await world.client.v1.subscriptions.retrieve_async(session.subscription)).status == "canceled"
    await world.delivered()
    assert {"customer.deleted", "customer.subscription.deleted"} <= set(world.receiver.types())


async def test_refunds_add_up_to_the_charge_and_no_further(world: World) -> None:
    session = await world.bought("pass")
    part = await world.client.v1.refunds.create_async({"payment_intent": session.payment_intent, "amount": 1000})
    assert (part.status, part.amount) == ("succeeded", 1000)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        await world.client.v1.refunds.create_async({"payment_intent": session.payment_intent, "amount": 1501})
    rest = await world.control("/refunds", payment_intent=session.payment_intent)
    assert rest["amount"] == 1500
    with pytest.raises(stripe.InvalidRequestError, match="has already been refunded") as refused:
        await world.client.v1.refunds.create_async({"payment_intent": session.payment_intent})
    assert refused.value.code == "charge_already_refunded"
    await world.delivered()
    charge = world.receiver.last("charge.refunded")["data"]["object"]
    assert (charge["amount_refunded"], charge["refunded"], charge["payment_intent"]) == (
        2500,
        True,
        session.payment_intent,
    )
    listed = await world.client.v1.refunds.list_async({"payment_intent": session.payment_intent})
    assert [refund.amount for refund in listed.data] == [1500, 1000]


async def test_a_payment_intent_leads_back_to_its_invoice_or_session(world: World) -> None:
    subscribed, bought = await world.bought(), await world.bought("pass")
    invoice = await world.client.v1.invoices.retrieve_async(subscribed.invoice, {"expand": ["payments"]})
    intent_id = invoice.to_dict()["payments"]["data"][0]["payment"]["payment_intent"]
    payments = await world.client.v1.invoice_payments.list_async(
        {"payment": {"type": "payment_intent", "payment_intent": intent_id}}
    )
    assert [payment.invoice for payment in payments.data] == [subscribed.invoice]
    sessions = await world.client.v1.checkout.sessions.list_async({"payment_intent": bought.payment_intent})
    assert [session.id for session in sessions.data] == [bought.id]
