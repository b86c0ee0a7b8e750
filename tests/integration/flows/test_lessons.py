"""What went wrong elsewhere, and must hold here: concurrent deliveries, stale reads, and what one source does to another."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg

from billing_service.domain.views import ObjectKind
from billing_service.flows.stripe_customer import StripeCustomers
from tests.integration.flows.conftest import Service
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture
from tests.stripe_events import MONTH, START, event, invoice, purchase, session, subscription
from tests.stripe_proxy import held

DAY = 86_400


async def test_created_and_updated_delivered_at_once_never_leave_it_incomplete(
    service: Service, other_service: Service
) -> None:
    """On two processes, in the same moment; of forty customers none is left with what came last."""
    names = [f"guest{number}" for number in range(40)]
    draw = Random(1)
    calls = [draw.choice((service, other_service)).outcomes(body) for name in names for body in purchase(name)]
    draw.shuffle(calls)
    await asyncio.gather(*calls)
    assert {(await service.read(name)).plan_keys for name in names} == {("pro",)}


async def test_binding_a_stripe_customer_and_parking_under_it_at_once_lose_nothing(
    service: Service, other_service: Service, database_url: str
) -> None:
    """Whichever comes first, what was parked counts: otherwise it would wait for ever for a binding that has been."""
    names = [f"guest{number}" for number in range(40)]
    for name in names:
        made_in_dashboard = subscription(name, metadata={})
        paid = invoice(name, parent=None, subscription=f"sub_{name}")
        binding = session(name, mode="payment", plan="export_pass", subscription=None)
        await asyncio.gather(
            service.outcomes(event("customer.subscription.created", made_in_dashboard), event("invoice.paid", paid)),
            other_service.outcomes(event("checkout.session.completed", binding)),
        )
    with psycopg.connect(database_url) as connection:
        unbound = connection.execute("SELECT count(*) FROM stripe_customers WHERE customer_id IS NULL").fetchone()
    assert unbound == (0,)
    assert {(await service.read(name)).plan_keys for name in names} == {("pro", "export_pass")}


async def test_a_read_that_was_under_way_does_not_overrule_what_was_committed_meanwhile(world: World) -> None:  # noqa: F811
    """Stripe answered before the cancellation, and its answer arrives after the event of it was committed."""
    session_id = await world.buy("ann")
    await world.fulfill(await world.events())
    subscription_id = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"]
    arrived, go = asyncio.Event(), asyncio.Event()
    world.proxy.next("GET", f"/v1/subscriptions/{subscription_id}", held(arrived, go))
    reading = asyncio.create_task(world.reads.object(ObjectKind.SUBSCRIPTION, subscription_id))
    await arrived.wait()
    await world.call("POST", "/_control/clock", advance_s=10)  # in the second of the purchase the order would be a tie
    await world.call("POST", f"/_control/subscriptions/{subscription_id}/pause")
    await world.fulfill(await world.events("customer.subscription.paused", "customer.subscription.updated"))
    assert (await world.read("ann")).plan_keys == ("free",)
    go.set()
    await reading
    assert (await world.read("ann")).plan_keys == ("free",)


async def test_what_only_the_type_of_an_event_says_outlives_a_later_read(world: World) -> None:  # noqa: F811
    """The read says nothing of the failure; the purchase whose delayed payment failed stays closed."""
    session_id = await world.buy("ann", "export_pass", "payment")
    body: dict[str, Any] = await world.call("GET", f"/v1/checkout/sessions/{session_id}")
    unpaid = {**body, "payment_status": "unpaid"}
    await world.fulfill([event("checkout.session.async_payment_failed", unpaid, created=body["created"])])
    await world.reads.object(ObjectKind.CHECKOUT_SESSION, session_id)
    facts = world.sql("SELECT facts ? 'payment_failed' FROM stripe_objects WHERE kind = 'checkout.session'")
    assert facts == [(True,)]


async def test_the_newest_subscription_does_not_win_over_a_better_one(service: Service) -> None:
    """A smaller one that comes last takes nothing away; its end neither."""
    better = subscription("ann", lookup_key="team_monthly", id="sub_team", latest_invoice=None)
    better["items"]["data"][0]["id"] = "si_team"
    await service.outcomes(event("customer.subscription.created", better), *purchase("ann", START + DAY))
    service.now += timedelta(days=1)
    assert (await service.read("ann")).plan_keys == ("team", "pro")
    over = subscription("ann", "canceled", start=START + DAY)
    await service.outcomes(event("customer.subscription.deleted", over, created=START + 2 * DAY))
    assert (await service.read("ann")).plan_keys == ("team",)


async def test_one_failed_card_blocks_neither_at_once_nor_what_was_paid_elsewhere(service: Service) -> None:
    """Grace is per source: a prepaid purchase is not touched by a renewal that fails, during the grace nor after it."""
    failed_at = START + MONTH
    bought = session("ann", mode="payment", plan="export_pass", subscription=None, id="cs_test_pass", created=failed_at)
    await service.outcomes(*purchase("ann"), event("checkout.session.completed", bought, created=failed_at))
    failing = [
        event(
            "invoice.payment_failed",
            invoice("ann", "open", id="in_2", billing_reason="subscription_cycle"),
            created=failed_at,
        ),
        event(
            "customer.subscription.updated", subscription("ann", "past_due", latest_invoice="in_2"), created=failed_at
        ),
    ]
    await service.outcomes(*failing)
    for days, expected in ((1, "grace"), (8, "payment_overdue")):
        service.now = datetime.fromtimestamp(failed_at + days * DAY, UTC)
        states = {s.stripe_id: s.state.value for s in (await service.read("ann")).sources if s.stripe_id}
        assert states == {"si_ann": expected, "cs_test_pass": "ending"}


async def test_retries_of_a_failed_payment_do_not_restart_the_grace(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    ends = set()
    for attempt in range(4):
        failed_at = START + MONTH + attempt * 2 * DAY
        open_invoice = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle")
        past_due = subscription("ann", "past_due", latest_invoice="in_2")
        await service.outcomes(
            event("invoice.payment_failed", open_invoice, created=failed_at),
            event("customer.subscription.updated", past_due, created=failed_at),
        )
        (source,) = [s for s in (await service.read("ann")).sources if s.stripe_id]
        ends.add(source.end_time)
    assert len(ends) == 1


async def test_nobody_is_found_by_his_address(world: World) -> None:  # noqa: F811
    """Two customers of ours with one e-mail address are two at Stripe, and neither was searched for."""
    made = StripeCustomers(world.database, world.stripe, world.prices, "default", lambda: datetime.now(UTC))
    ids = [await made.ensure(name, "same@example.com") for name in ("ann", "bob")]
    assert len(set(ids)) == 2
    assert [path for method, path in world.proxy.calls if method == "GET" and "customers" in path] == []
