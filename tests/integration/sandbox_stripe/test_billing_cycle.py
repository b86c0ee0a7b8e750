"""Subscriptions live as they do at Stripe when time passes: renewals, dunning, trials, pauses, first payments."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.integration.sandbox_stripe.conftest import World

DAY_S = 86_400
START = 1_800_000_000
MONTH_END = 1_802_678_400  # 15 Jan to 15 Feb 2027


async def _advance_to(world: World, moment: int) -> None:
    async with world.http.get(f"{world.url}/_control/clock") as response:
        now = (await response.json())["now"]
    await world.control("/clock", advance_s=moment - now)


async def _read(world: World, session: Any) -> Any:
    return await world.client.v1.subscriptions.retrieve_async(session.subscription, {"expand": ["latest_invoice"]})


async def _types_since(world: World, count: int) -> list[str]:
    await world.delivered()
    return world.receiver.types()[count:]


async def test_a_renewals_invoice_is_a_draft_for_an_hour_and_then_paid(world: World) -> None:
    session = await world.bought()
    await _advance_to(world, MONTH_END)
    draft = await _read(world, session)
    assert (draft.status, draft["items"].data[0].current_period_start) == ("active", MONTH_END)
    assert (draft.latest_invoice.status, draft.latest_invoice.automatically_finalizes_at) == ("draft", MONTH_END + 3600)
    await _advance_to(world, MONTH_END + 3600)
    assert (await _read(world, session)).latest_invoice.status == "paid"


async def test_without_a_draft_period_everything_of_a_renewal_has_one_second(world: World) -> None:
    """The ties by which a receiver that orders by `created` goes wrong."""
    await world.bought()
    await world.delivered()
    before = len(world.receiver.events)
    await world.control("/settings", draft_s=0)
    await _advance_to(world, MONTH_END)
    await world.delivered()
    events = world.receiver.events[before:]
    assert {"customer.subscription.updated", "invoice.paid", "invoice_payment.paid"} <= {e["type"] for e in events}
    assert {event["created"] for event in events} == {MONTH_END}


@pytest.mark.parametrize(
    ("after_dunning", "status"),
    [("canceled", "canceled"), ("unpaid", "unpaid"), ("past_due", "past_due"), ("paused", "paused")],
)
async def test_a_declined_card_is_tried_three_times_more_and_then_it_is_over(
    world: World, after_dunning: str, status: str
) -> None:
    """Retries come 3, 5 and 7 days after one another; what becomes of the subscription then, the settings say."""
    session = await world.bought()
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    await world.control("/settings", after_dunning=after_dunning)
    first = MONTH_END + 3600
    await _advance_to(world, first)
    failed = await _read(world, session)
    assert (failed.status, failed.latest_invoice.next_payment_attempt) == ("past_due", first + 3 * DAY_S)
    await _advance_to(world, first + 15 * DAY_S)
    ended = await _read(world, session)
    assert (ended.status, ended.latest_invoice.status, ended.latest_invoice.attempt_count) == (status, "open", 4)
    await world.delivered()
    tries = [e["created"] - first for e in world.receiver.events if e["type"] == "invoice.payment_failed"]
    assert sorted(tries) == [0, 3 * DAY_S, 8 * DAY_S, 15 * DAY_S]


async def test_a_mended_card_ends_the_dunning(world: World) -> None:
    session = await world.bought()
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    await _advance_to(world, MONTH_END + 3600)
    await world.control(f"/customers/{session.customer}/card", outcome="paid")
    await _advance_to(world, MONTH_END + 3600 + 3 * DAY_S)
    recovered = await _read(world, session)
    assert (recovered.status, recovered.latest_invoice.status) == ("active", "paid")


async def test_a_renewal_by_bank_debit_is_open_for_days_and_can_come_back(world: World) -> None:
    session = await world.bought()
    await world.control(f"/customers/{session.customer}/card", outcome="processing")
    await _advance_to(world, MONTH_END + 3600)
    waiting = await _read(world, session)
    assert (waiting.status, waiting.latest_invoice.status) == ("active", "open")
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    await _advance_to(world, MONTH_END + 3600 + 5 * DAY_S)
    assert (await _read(world, session)).status == "past_due"


@pytest.mark.parametrize("how", ["void", "mark_uncollectible"])
async def test_what_is_not_owed_any_more_makes_it_active(world: World, how: str) -> None:
    """Taking back or writing off the open invoice leaves the subscription active although nobody paid."""
    session = await world.bought()
    renewed = await world.control(f"/subscriptions/{session.subscription}/renew", outcome="failed")
    await world.control(f"/invoices/{renewed['latest_invoice']}/{how}")
    assert (await _read(world, session)).status == "active"


async def _trial(world: World, days: int = 7, behavior: str = "create_invoice", **more: Any) -> Any:
    data = {
        "trial_period_days": days,
        "trial_settings": {"end_behavior": {"missing_payment_method": behavior}},
        "metadata": {"billing_plan_key": "plan"},
    }
    return await world.bought(subscription_data=data, **more)


async def test_a_trial_costs_nothing_is_announced_and_becomes_a_paid_period(world: World) -> None:
    session = await _trial(world)
    trial = await _read(world, session)
    assert (trial.status, trial.latest_invoice.amount_paid, session.payment_status) == (
        "trialing",
        0,
        "no_payment_required",
    )
    await _advance_to(world, START + 7 * DAY_S + 3600)
    paid = await _read(world, session)
    assert (paid.status, paid.latest_invoice.amount_paid, paid.latest_invoice.billing_reason) == (
        "active",
        1200,
        "subscription_cycle",
    )
    await world.delivered()
    assert world.receiver.last("customer.subscription.trial_will_end")["created"] == START + 4 * DAY_S


@pytest.mark.parametrize(("behavior", "status"), [("pause", "paused"), ("cancel", "canceled")])
async def test_a_trial_without_a_means_of_payment_ends_as_its_settings_say(
    world: World, behavior: str, status: str
) -> None:
    session = await _trial(world, behavior=behavior, payment_method_collection="if_required")
    await _advance_to(world, START + 7 * DAY_S)
    assert (await _read(world, session)).status == status
    await world.delivered()
    told = {"pause": "customer.subscription.paused", "cancel": "customer.subscription.deleted"}[behavior]
    assert world.receiver.last(told)["data"]["object"]["status"] == status


async def test_a_paused_subscription_stands_still_until_it_is_resumed_and_paid(world: World) -> None:
    session = await world.bought()
    paused = await world.client.v1.subscriptions.pause_async(session.subscription)
    assert paused.status == "paused"
    await _advance_to(world, MONTH_END + 10 * DAY_S)
    assert (await _read(world, session))["items"].data[0].current_period_end == MONTH_END
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    unpaid = await world.client.v1.subscriptions.resume_async(session.subscription)
    assert unpaid.status == "paused"
    await world.control(f"/invoices/{unpaid.latest_invoice}/collect", outcome="paid")
    resumed = await _read(world, session)
    assert (resumed.status, resumed["items"].data[0].current_period_start) == ("active", MONTH_END + 10 * DAY_S)
    await world.delivered()
    assert world.receiver.last("customer.subscription.resumed")["data"]["object"]["status"] == "active"
    with pytest.raises(stripe.InvalidRequestError, match="only a paused one"):
        await world.client.v1.subscriptions.resume_async(session.subscription)


@pytest.mark.parametrize(
    ("behavior", "invoice"), [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")]
)
async def test_paused_collection_leaves_the_status_alone_until_it_ends(
    world: World, behavior: str, invoice: str
) -> None:
    session = await world.bought()
    resumes_at = MONTH_END + 2 * DAY_S
    await world.client.v1.subscriptions.update_async(
        session.subscription, {"pause_collection": {"behavior": behavior, "resumes_at": resumes_at}}
    )
    await _advance_to(world, MONTH_END + DAY_S)
    held = await _read(world, session)
    assert (held.status, held.pause_collection.behavior, held.latest_invoice.status) == ("active", behavior, invoice)
    await _advance_to(world, resumes_at)
    assert (await _read(world, session)).pause_collection is None


@pytest.mark.parametrize(("card", "status", "invoice"), [("paid", "active", "paid"), ("declined", "past_due", "open")])
async def test_a_period_that_is_begun_anew_has_begun_whether_it_is_paid_or_not(
    world: World, card: str, status: str, invoice: str
) -> None:
    session = await world.bought()
    await _advance_to(world, START + 10 * DAY_S)
    await world.control(f"/customers/{session.customer}/card", outcome=card)
    await world.client.v1.subscriptions.update_async(session.subscription, {"billing_cycle_anchor": {"type": "now"}})
    found = await _read(world, session)
    assert (found.status, found["items"].data[0].current_period_start) == (status, START + 10 * DAY_S)
    assert (found.latest_invoice.status, found.latest_invoice.created) == (invoice, START + 10 * DAY_S)
    assert found.latest_invoice.billing_reason == "subscription_update"


async def test_a_trial_that_is_ended_now_becomes_a_paid_period(world: World) -> None:
    session = await world.bought(subscription_data={"trial_period_days": 14})
    await _advance_to(world, START + DAY_S)
    await world.client.v1.subscriptions.update_async(session.subscription, {"trial_end": "now"})
    found = await _read(world, session)
    assert (found.status, found.trial_end, found.latest_invoice.status) == ("active", START + DAY_S, "paid")


async def test_cancel_at_ends_it_in_the_middle_of_a_period(world: World) -> None:
    session = await world.bought()
    at = START + 5 * DAY_S + 17
    await world.client.v1.subscriptions.update_async(session.subscription, {"cancel_at": at})
    await _advance_to(world, at + DAY_S)
    ended = await _read(world, session)
    assert (ended.status, ended.ended_at) == ("canceled", at)


async def test_a_first_payment_that_never_comes_expires_after_23_hours(world: World) -> None:
    session = await world.session()
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="incomplete")
    subscription = (await world.client.v1.subscriptions.list_async({"status": "incomplete"})).data[0]
    assert (await world.reread(session.id)).status == "open"
    await _advance_to(world, START + 23 * 3600)
    expired = await world.client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert (expired.status, expired.latest_invoice.status) == ("incomplete_expired", "void")
    assert {"invoice.payment_action_required", "invoice.voided"} <= set(await _types_since(world, 0))


async def test_a_first_payment_that_comes_late_makes_the_same_subscription_active(world: World) -> None:
    session = await world.session()
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="incomplete")
    begun = (await world.client.v1.subscriptions.list_async({"status": "incomplete"})).data[0]
    await world.control(f"/checkout/sessions/{session.id}/complete", outcome="paid")
    complete = await world.reread(session.id)
    assert (complete.subscription, complete.payment_status) == (begun.id, "paid")
    assert (await _read(world, complete)).status == "active"


@pytest.mark.parametrize(
    ("card", "told", "status"), [("paid", "succeeded", "active"), ("declined", "failed", "active")]
)
async def test_a_first_bank_debit_settles_by_itself(world: World, card: str, told: str, status: str) -> None:
    """After five days the session says how it went; the subscription stays active either way, its invoice does not."""
    session = await world.bought(outcome="processing")
    await world.control(f"/customers/{session.customer}/card", outcome=card)
    await _advance_to(world, START + 5 * DAY_S)
    await world.delivered()
    assert world.receiver.last(f"checkout.session.async_payment_{told}")["created"] == START + 5 * DAY_S
    settled = await _read(world, session)
    assert (settled.status, settled.latest_invoice.status) == (status, {"paid": "paid", "declined": "void"}[card])


async def test_price_and_quantity_change_through_the_controls(world: World) -> None:
    session = await world.bought()
    changed = await world.control(f"/subscriptions/{session.subscription}/change", lookup_key="pro_yearly", quantity=4)
    item = changed["items"]["data"][0]
    assert (item["price"]["lookup_key"], item["quantity"]) == ("pro_yearly", 4)


async def test_a_moved_lookup_key_is_told_of_both_prices_and_subscriptions_show_it(world: World) -> None:
    session = await world.bought()
    old = await world.client.v1.prices.retrieve_async(await world.price("pro_monthly"))
    new = await world.client.v1.prices.create_async(
        {
            "product": old.product,
            "currency": "eur",
            "unit_amount": 1500,
            "recurring": {"interval": "month"},
            "lookup_key": "pro_monthly",
            "transfer_lookup_key": True,
        }
    )
    item = (await _read(world, session))["items"].data[0]
    assert (item.price.id, item.price.lookup_key) == (old.id, None)
    await world.delivered()
    assert world.receiver.last("price.updated")["data"]["previous_attributes"] == {"lookup_key": "pro_monthly"}
    assert world.receiver.last("price.created")["data"]["object"]["id"] == new.id


async def test_a_change_that_waits_for_its_payment_is_applied_when_paid_and_given_up_otherwise(world: World) -> None:
    """As `payment_behavior=pending_if_incomplete` has it: by the API, with the events that tell of it."""
    session = await world.bought()
    before = await world.client.v1.subscriptions.retrieve_async(session.subscription)
    await world.control(f"/customers/{session.customer}/card", outcome="declined")
    change: Any = {
        "items": [{"id": before["items"].data[0].id, "quantity": 5}],
        "payment_behavior": "pending_if_incomplete",
        "proration_behavior": "always_invoice",
    }
    with pytest.raises(stripe.InvalidRequestError, match=r"following parameters: metadata"):
        await world.client.v1.subscriptions.update_async(session.subscription, {**change, "metadata": {"a": "b"}})
    for end in ("paid", "void", "period", "expired"):
        waiting = await world.client.v1.subscriptions.update_async(session.subscription, change)
        assert (waiting.status, waiting["items"].data[0].quantity) == ("active", 1)
        assert waiting.pending_update.subscription_items[0].quantity == 5
        assert waiting.pending_update.expires_at == int(world.clock.now) + 23 * 3600
        invoice = await world.client.v1.invoices.retrieve_async(waiting.latest_invoice)
        assert (invoice.status, invoice.attempt_count, invoice.next_payment_attempt) == ("open", 1, None)
        match end:
            case "paid":
                await world.control(f"/invoices/{invoice.id}/collect", outcome="paid")
            case "void":
                await world.control(f"/invoices/{invoice.id}/void")
            case "period":
                await world.control(f"/subscriptions/{session.subscription}/renew", outcome="paid")
            case _:
                world.clock.now += 23 * 3600
                world.stand_in.advance()
        after = await world.client.v1.subscriptions.retrieve_async(session.subscription)
        assert (after.pending_update, after.status) == (None, "active")
        assert after["items"].data[0].quantity == (5 if end == "paid" else 1)
        status = (await world.client.v1.invoices.retrieve_async(invoice.id)).status
        assert status == ("paid" if end == "paid" else "void")
        await world.client.v1.subscriptions.update_async(
            session.subscription, {"items": [{"id": before["items"].data[0].id, "quantity": 1}]}
        )
    await world.delivered()
    told = [kind for kind in world.receiver.types() if "pending_update" in kind]
    assert (
        told == ["customer.subscription.pending_update_applied"] + ["customer.subscription.pending_update_expired"] * 3
    )
