from __future__ import annotations

import aiohttp
import pytest
import stripe

from tests.integration.sandbox_stripe.conftest import API_KEY, World

# What one paid checkout of a subscription sends, as Stripe sends it.
SUBSCRIPTION_EVENTS = [
    "customer.created",
    "customer.subscription.created",
    "invoice.created",
    "invoice.finalized",
    "payment_intent.created",
    "charge.succeeded",
    "payment_intent.succeeded",
    "invoice_payment.paid",
    "invoice.paid",
    "invoice.payment_succeeded",
    "customer.subscription.updated",
    "checkout.session.completed",
]
UNSENT = "invoice.created"  # listed, and sent to nobody: a failure to answer it would delay the customer's invoice


async def test_a_paid_subscription_is_active_with_a_paid_invoice_and_tells_every_step(world: World) -> None:
    session = await world.bought()
    assert (session.status, session.payment_status, session.url) == ("complete", "paid", None)
    subscription = await world.client.v1.subscriptions.retrieve_async(
        session.subscription, {"expand": ["latest_invoice.payments"]}
    )
    item = subscription["items"].data[0]
    assert (subscription.status, item.quantity, item.price.lookup_key) == ("active", 1, "pro_monthly")
    # 15 Jan to 15 Feb 2027.
    assert (item.current_period_start, item.current_period_end) == (
        1_800_000_000,
        1_802_678_400,
    )
    assert subscription.metadata["billing_plan_key"] == "plan"
    invoice = subscription.latest_invoice.to_dict()
    assert (invoice["id"], invoice["status"], invoice["amount_paid"]) == (session.invoice, "paid", 1200)
    details = invoice["parent"]["subscription_details"]
    assert details == {"metadata": {"billing_plan_key": "plan"}, "subscription": subscription.id}
    assert invoice["payments"]["data"][0]["payment"]["payment_intent"].startswith("pi_")
    await world.delivered()
    assert sorted([*world.receiver.types(), UNSENT]) == sorted(SUBSCRIPTION_EVENTS)


async def test_the_log_of_events_has_the_steps_in_order_and_the_webhooks_say_the_same(world: World) -> None:
    await world.bought()
    await world.delivered()
    async with world.http.get(
        f"{world.url}/v1/events?limit=100", headers={"Authorization": aiohttp.encode_basic_auth(API_KEY, "")}
    ) as response:
        log = (await response.json())["data"][::-1]
    wanted = [event for event in log if not event["type"].startswith(("product.", "price."))]
    assert [event["type"] for event in wanted] == SUBSCRIPTION_EVENTS
    delivered = {event["id"]: event["data"] for event in world.receiver.events}
    assert delivered == {event["id"]: event["data"] for event in wanted if event["type"] != UNSENT}


async def test_the_subscription_begins_incomplete_and_its_update_tells_what_it_was(world: World) -> None:
    await world.bought()
    await world.delivered()
    assert world.receiver.last("customer.subscription.created")["data"]["object"]["status"] == "incomplete"
    updated = world.receiver.last("customer.subscription.updated")
    assert updated["data"]["object"]["status"] == "active"
    assert updated["data"]["previous_attributes"] == {"status": "incomplete"}
    assert updated["created"] == world.receiver.last("customer.subscription.created")["created"]


async def test_events_carry_what_stripes_carry(world: World) -> None:
    session = await world.bought()
    await world.delivered()
    event = world.receiver.last("checkout.session.completed")
    assert event["id"].startswith("evt_")
    assert (event["object"], event["api_version"], event["livemode"]) == ("event", "2026-10-28.endive", False)
    assert (event["created"], event["pending_webhooks"]) == (1_800_000_000, 1)
    assert set(event["request"]) == {"id", "idempotency_key"}
    assert event["data"]["object"]["id"] == session.id
    assert not [key for key in event["data"]["object"] if key.startswith("_")]
    headers = world.receiver.headers[0]
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["User-Agent"].startswith("Stripe/1.0")


async def test_a_one_time_purchase_makes_a_payment_intent_with_our_metadata(world: World) -> None:
    session = await world.bought("pass")
    assert (session.status, session.payment_status, session.subscription) == ("complete", "paid", None)
    intent = await world.client.v1.payment_intents.retrieve_async(session.payment_intent)
    assert (intent.status, intent.amount_received, intent.currency) == ("succeeded", 2500, "usd")
    assert intent.metadata["billing_plan_key"] == "plan"
    assert intent.customer == session.customer


async def test_a_session_names_nothing_bought_until_it_completes(world: World) -> None:
    session = await world.session()
    assert (session.subscription, session.invoice, session.payment_intent) == (None, None, None)
    assert (session.status, session.payment_status) == ("open", "unpaid")


@pytest.mark.parametrize(("ending", "status"), [("succeeded", "paid"), ("failed", "unpaid")])
async def test_a_bank_debit_completes_unpaid_and_settles_later(world: World, ending: str, status: str) -> None:
    session = await world.bought("pass", "processing")
    assert (session.status, session.payment_status) == ("complete", "unpaid")
    settled = await world.control(f"/checkout/sessions/{session.id}/settle", outcome=ending)
    assert settled["payment_status"] == status
    await world.delivered()
    event = world.receiver.last(f"checkout.session.async_payment_{ending}")
    assert event["data"]["object"]["payment_status"] == status
    assert world.receiver.last("checkout.session.completed")["data"]["object"]["payment_status"] == "unpaid"
    again = await world.control(f"/checkout/sessions/{session.id}/settle", expect=400, outcome=ending)
    assert "no payment on its way" in again["error"]["message"]


async def test_a_subscription_on_a_bank_debit_is_active_while_its_invoice_is_open(world: World) -> None:
    session = await world.bought(outcome="processing")
    subscription = await world.client.v1.subscriptions.retrieve_async(
        session.subscription, {"expand": ["latest_invoice"]}
    )
    assert (subscription.status, subscription.latest_invoice.status) == ("active", "open")


async def test_a_failed_first_debit_voids_the_invoice_and_leaves_the_subscription_active(world: World) -> None:
    session = await world.bought(outcome="processing")
    await world.control(f"/checkout/sessions/{session.id}/settle", outcome="failed")
    subscription = await world.client.v1.subscriptions.retrieve_async(
        session.subscription, {"expand": ["latest_invoice"]}
    )
    assert (subscription.status, subscription.latest_invoice.status) == ("active", "void")
    await world.delivered()
    assert {"invoice.payment_failed", "invoice.voided", "checkout.session.async_payment_failed"} <= set(
        world.receiver.types()
    )


async def test_a_declined_card_leaves_the_session_open_and_payable(world: World) -> None:
    session = await world.bought("pass", "declined")
    assert (session.status, session.payment_status, session.payment_intent) == ("open", "unpaid", None)
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="paid")
    assert (await world.reread(session.id)).status == "complete"
    intents = await world.client.v1.payment_intents.list_async()
    assert [intent.status for intent in intents.data] == ["succeeded"]  # the second try used the first one's intent


async def test_a_completed_session_cannot_be_paid_again(world: World) -> None:
    session = await world.bought()
    refused = await world.control(f"/checkout/sessions/{session.id}/complete", expect=400, outcome="paid")
    assert "only an open one can be paid" in refused["error"]["message"]
    assert len((await world.client.v1.subscriptions.list_async()).data) == 1


async def test_a_trial_needs_no_payment_and_starts_trialing(world: World) -> None:
    session = await world.bought(subscription_data={"trial_period_days": 14})
    assert session.payment_status == "no_payment_required"
    subscription = await world.client.v1.subscriptions.retrieve_async(
        session.subscription, {"expand": ["latest_invoice"]}
    )
    assert (subscription.status, subscription.latest_invoice.total) == ("trialing", 0)
    assert subscription["items"].data[0].current_period_end == subscription.trial_end == 1_800_000_000 + 14 * 86_400


async def test_checkout_makes_the_customer_that_a_subscription_needs(world: World) -> None:
    params = await world.session_params(customer_email="new@example.com")
    del params["customer"]
    session = await world.client.v1.checkout.sessions.create_async(params)
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="paid")
    found = await world.reread(session.id, "customer")
    assert found.customer.email == "new@example.com"


async def test_expiring_closes_an_open_session_and_refuses_a_complete_one_in_stripes_words(world: World) -> None:
    session = await world.session()
    expired = await world.client.v1.checkout.sessions.expire_async(session.id)
    assert (expired.status, expired.url) == ("expired", None)
    complete = await world.bought()
    with pytest.raises(
        stripe.InvalidRequestError, match=r'Only Checkout Sessions with a status in \["open"\] can be expired'
    ):
        await world.client.v1.checkout.sessions.expire_async(complete.id)
    await world.delivered()
    assert world.receiver.types().count("checkout.session.expired") == 1


async def test_a_session_expires_by_itself_when_its_time_is_over(world: World) -> None:
    session = await world.session(expires_at=1_800_000_000 + 1_800)
    world.clock.now += 1_800
    world.stand_in.advance()
    assert (await world.reread(session.id)).status == "expired"
    refused = await world.control(f"/checkout/sessions/{session.id}/complete", expect=400, outcome="paid")
    assert "is expired" in refused["error"]["message"]
    await world.delivered()
    assert world.receiver.types().count("checkout.session.expired") == 1


async def test_an_overdue_session_is_expired_for_whoever_looks_before_the_sweep(world: World) -> None:
    session = await world.session()
    world.clock.now += 86_400
    assert (await world.reread(session.id)).status == "expired"
