"""What goes wrong on purpose, on both sides, as the seed says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import stripe

from sandbox.stripe.faults import DeliveryFaults, FaultPlan, Faults
from tests.integration.sandbox_stripe.conftest import World


async def _faults(world: World, seed: int = 1, **body: Any) -> None:
    await world.control("/faults", seed=seed, **body)


async def test_dropped_events_never_arrive_and_are_listed_as_missed_until_they_are_sent_again(world: World) -> None:
    await _faults(world, deliveries={"drop": 1})
    await world.customer()
    await world.delivered()
    assert world.receiver.events == []
    missed = await world.client.v1.events.list_async({"delivery_success": False})
    assert [event.type for event in missed.data] == ["customer.created"]
    await world.control("/faults")
    assert await world.control("/webhooks/resend") == {"resent": 1}
    await world.delivered()
    assert world.receiver.types() == ["customer.created"]
    assert (await world.client.v1.events.list_async({"delivery_success": False})).data == []


async def test_a_duplicate_is_the_same_event_again(world: World) -> None:
    await _faults(world, deliveries={"duplicate": 1})
    await world.customer()
    await world.delivered()
    assert (world.receiver.types(), len({e["id"] for e in world.receiver.events})) == (["customer.created"] * 2, 1)


async def test_a_twin_tells_the_same_fact_under_another_id(world: World) -> None:
    await _faults(world, deliveries={"twin": 1})
    await world.customer()
    await world.delivered()
    one, other = world.receiver.events
    assert one["id"] != other["id"]
    assert {**one, "id": ""} == {**other, "id": ""}
    assert len((await world.client.v1.events.list_async({"types": ["customer.created"]})).data) == 2


async def test_held_and_delayed_events_arrive_in_another_order_and_all_of_them(world: World) -> None:
    await _faults(world, deliveries={"reorder": 0.5, "delay": 0.5, "delay_s": 0.05})
    await world.bought()
    await world.delivered()
    listed = await world.client.v1.events.list_async({"limit": 100})
    made = [event.id for event in reversed(listed.data) if event.type != "invoice.created"]
    arrived = [event["id"] for event in world.receiver.events]
    assert set(arrived) <= set(made)
    assert Counter(world.receiver.types())["customer.subscription.updated"] == 1
    assert arrived != [event_id for event_id in made if event_id in set(arrived)]


async def test_an_old_endpoint_gets_the_shapes_from_before_basil(world: World) -> None:
    """Periods on the subscription, the invoice naming subscription and payment intent; the events list stays new."""
    await _faults(world, deliveries={"old_version": 1})
    session = await world.bought()
    await world.delivered()
    event = world.receiver.last("customer.subscription.updated")
    subscription = event["data"]["object"]
    assert event["api_version"] == "2024-06-20"
    assert (subscription["current_period_end"], "current_period_end" in subscription["items"]["data"][0]) == (
        1_802_678_400,
        False,
    )
    invoice = world.receiver.last("invoice.paid")["data"]["object"]
    assert (invoice["subscription"], invoice["paid"], "parent" in invoice) == (session.subscription, True, False)
    assert invoice["payment_intent"].startswith("pi_")
    assert world.receiver.last("charge.succeeded")["data"]["object"]["invoice"] == session.invoice
    assert world.receiver.last("invoice_payment.paid")["api_version"] == "2026-10-28.endive"  # newer than the old one
    listed = (await world.client.v1.events.list_async({"types": ["invoice.paid"]})).data[0]
    assert listed.data.object.parent.type == "subscription_details"


async def test_a_thin_event_names_the_object_and_carries_nothing_of_it(world: World) -> None:
    await _faults(world, deliveries={"thin": 1})
    customer_id = await world.customer()
    await world.delivered()
    thin = world.receiver.last("v1.customer.created")
    assert (thin["object"], thin["related_object"]) == (
        "v2.core.event",
        {"id": customer_id, "type": "customer", "url": f"/v1/customers/{customer_id}"},
    )
    assert "data" not in thin


async def test_a_secret_being_rolled_signs_twice(world: World) -> None:
    await _faults(world, secret_roll=True)
    await world.customer()
    await world.delivered()
    assert world.receiver.headers[-1]["Stripe-Signature"].count("v1=") == 2


async def test_429_is_no_answer_to_keep_and_500_is(world: World) -> None:
    """After a 429 the idempotency key is free; a 500 is replayed under its key for as long as the key is kept."""
    options = {"idempotency_key": "limited"}
    await _faults(world, api={"rate_429": 1})
    with pytest.raises(stripe.RateLimitError):
        await world.client.v1.customers.create_async({"name": "a"}, options)
    await world.control("/faults")
    assert (await world.client.v1.customers.create_async({"name": "a"}, options)).name == "a"
    await _faults(world, api={"rate_500": 1})
    options = {"idempotency_key": "failed"}
    for _ in range(2):
        with pytest.raises(stripe.APIError, match="unknown error"):
            await world.client.v1.customers.create_async({"name": "b"}, options)
        await world.control("/faults")


async def test_a_slow_answer_is_late_and_otherwise_good(world: World) -> None:
    """Each request waits for a part of the time that the seed draws, and is then carried out once and answered as ever."""
    await _faults(world, api={"slow_s": 0.02})
    made = [(await world.client.v1.customers.create_async({"name": name})).name for name in ("a", "b")]
    assert made == ["a", "b"]
    async with world.http.get(f"{world.url}/_control/faults") as response:
        assert (await response.json())["counts"] == {"api_slow": 2}


async def test_a_500_and_a_cut_may_come_after_the_deed(world: World) -> None:
    """Of many requests that get no good answer, some were carried out and some were not; nobody can tell which."""
    for name, api in (("b", {"rate_500": 1}), ("c", {"cut": 1})):
        await _faults(world, seed=5, api=api)
        for _ in range(12):
            with pytest.raises((stripe.APIError, stripe.APIConnectionError)):
                await world.client.v1.customers.create_async({"name": name})
        await world.control("/faults")
        made = [c for c in (await world.client.v1.customers.list_async({"limit": 100})).data if c.name == name]
        assert 0 < len(made) < 12


def test_the_same_seed_brings_the_same_fates() -> None:
    shares = DeliveryFaults(drop=0.3, duplicate=0.3, delay=0.5, reorder=0.3, twin=0.3, old_version=0.3, thin=0.3)

    def fates(seed: int) -> list[Any]:
        faults = Faults()
        faults.begin(FaultPlan(seed=seed, deliveries=shares))
        return [faults.next_fate() for _ in range(50)]

    assert fates(7) == fates(7)
    assert fates(7) != fates(8)


async def test_shares_are_checked_and_nothing_is_wrong_by_default(world: World) -> None:
    refused = await world.control("/faults", expect=400, deliveries={"drop": 2})
    assert "deliveries.drop" in refused["error"]["message"]
    await world.customer()
    await world.delivered()
    async with world.http.get(f"{world.url}/_control/faults") as response:
        assert (await response.json())["counts"] == {}
    async with world.http.get(f"{world.url}/_control/webhooks/taken") as response:
        taken = await response.json()
    assert (taken["attempts"], taken["event_ids"]) == (1, [world.receiver.events[0]["id"]])
