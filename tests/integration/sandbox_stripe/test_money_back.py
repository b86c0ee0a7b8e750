"""Refunds that take their time or fail, and disputes with all their turns."""

from __future__ import annotations

import pytest

from tests.integration.sandbox_stripe.conftest import World


async def test_a_refund_that_fails_later_was_never_given(world: World) -> None:
    session = await world.bought("pass")
    refund = await world.control("/refunds", payment_intent=session.payment_intent)
    assert refund["status"] == "succeeded"
    failed = await world.control(f"/refunds/{refund['id']}/end", outcome="failed")
    assert (failed["status"], failed["failure_reason"]) == ("failed", "declined")
    charge = await world.client.v1.charges.retrieve_async(refund["charge"])
    assert (charge.amount_refunded, charge.refunded) == (0, False)
    await world.delivered()
    assert world.receiver.last("refund.failed")["data"]["object"]["id"] == refund["id"]


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "canceled"])
async def test_a_pending_refund_ends_as_the_bank_says(world: World, outcome: str) -> None:
    session = await world.bought("pass")
    refund = await world.control("/refunds", payment_intent=session.payment_intent, amount=700, pending=True)
    assert refund["status"] == "pending"
    ended = await world.control(f"/refunds/{refund['id']}/end", outcome=outcome)
    charge = await world.client.v1.charges.retrieve_async(refund["charge"])
    assert (ended["status"], charge.amount_refunded) == (outcome, 700 if outcome == "succeeded" else 0)
    refused = await world.control(f"/refunds/{refund['id']}/end", expect=400, outcome="canceled")
    assert "does not become" in refused["error"]["message"]


async def test_a_dispute_goes_through_its_turns_and_tells_each(world: World) -> None:
    """Opened, lost, appealed, won: events say created, closed, updated, closed; an order that Stripe does not know is refused."""
    session = await world.bought("pass")
    dispute = await world.control("/disputes", payment_intent=session.payment_intent)
    assert (dispute["status"], dispute["amount"]) == ("needs_response", 2500)
    again = await world.control("/disputes", expect=400, payment_intent=session.payment_intent)
    assert "disputed already" in again["error"]["message"]
    refused = await world.control(f"/disputes/{dispute['id']}", expect=400, status="appeal_under_review")
    assert "does not become" in refused["error"]["message"]
    for status in ("lost", "appeal_under_review", "won"):
        await world.control(f"/disputes/{dispute['id']}", status=status)
    await world.delivered()
    told = [e["type"] for e in sorted(world.receiver.events, key=lambda e: e["created"]) if "dispute" in e["type"]]
    assert sorted(told) == sorted(
        [
            "charge.dispute.created",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
            "charge.dispute.updated",
            "charge.dispute.closed",
            "charge.dispute.funds_reinstated",
        ]
    )
    assert (await world.client.v1.disputes.retrieve_async(dispute["id"])).status == "won"
    listed = await world.client.v1.disputes.list_async({"payment_intent": session.payment_intent})
    assert [one.id for one in listed.data] == [dispute["id"]]


async def test_an_inquiry_moves_no_money_unless_it_becomes_a_dispute(world: World) -> None:
    session = await world.bought("pass")
    inquiry = await world.control("/disputes", payment_intent=session.payment_intent, warning=True)
    assert inquiry["status"] == "warning_needs_response"
    await world.delivered()
    assert "charge.dispute.funds_withdrawn" not in world.receiver.types()
    await world.control(f"/disputes/{inquiry['id']}", status="needs_response")
    await world.delivered()
    assert "charge.dispute.funds_withdrawn" in world.receiver.types()


async def test_the_truth_holds_everything_of_a_customer_and_what_only_events_say(world: World) -> None:
    session = await world.bought("pass")
    subscribed = await world.bought()
    renewed = await world.control(f"/subscriptions/{subscribed.subscription}/renew", outcome="failed")
    await world.control("/refunds", payment_intent=session.payment_intent, amount=100)
    await world.control("/disputes", payment_intent=session.payment_intent)
    async with world.http.get(f"{world.url}/_control/truth/u_1") as response:
        held = (await response.json())["customers"]["u_1"]
    counts = {name: len(objects) for name, objects in held.items() if name != "notes"}
    assert counts == {
        "customers": 2,
        "checkout_sessions": 2,
        "subscriptions": 1,
        "invoices": 2,
        "charges": 3,
        "refunds": 1,
        "disputes": 1,
        "invoice_payments": 2,
    }
    assert held["notes"][renewed["latest_invoice"]] == {"failed_at": 1_800_000_000}
    assert held["notes"][session.id] == {"paid_at": 1_800_000_000}
    async with world.http.get(f"{world.url}/_control/truth/nobody") as response:
        assert (await response.json())["customers"] == {}
