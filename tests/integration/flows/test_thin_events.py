"""Thin events: they say that something happened to an object, and Stripe is asked what."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.observation import HANDLED_TYPES
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.storage.rereads import claim
from sandbox.stripe.thin_events import thin_twin
from tests.integration.flows.conftest import Service, running
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture
from tests.stripe_events import MONTH, START, event, export_pass, invoice, purchase, subscription, thin_event

DAY = 86_400


async def thin(world: World) -> list[bytes]:  # noqa: F811 - a fixture's name
    """Give the thin twin of every event of Stripe's so far."""
    twins = [thin_twin(json.loads(body)) for body in await world.events()]
    return [json.dumps(twin).encode() for twin in twins if twin is not None]


async def states(read: Callable[[str], Awaitable[Entitlements]]) -> list[SourceState]:
    """Give how each of what the customer has bought stands."""
    return [source.state for source in (await read("ann")).sources if source.stripe_id]


async def test_a_purchase_and_its_end_are_followed_by_thin_events_alone(world: World) -> None:  # noqa: F811
    session_id = await world.buy("ann")
    await world.fulfill(await thin(world))
    await world.serve_all()
    assert (await world.read("ann")).plan_keys == ("pro",)
    subscription_id = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"]
    await world.call("DELETE", f"/v1/subscriptions/{subscription_id}")
    await world.fulfill((await thin(world))[-2:])
    await world.serve_all()
    assert (await world.read("ann")).plan_keys == ("free",)


async def test_a_refund_that_only_a_thin_event_told_of_counts(world: World) -> None:  # noqa: F811
    session_id = await world.buy("ann", "export_pass", "payment")
    payment = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["payment_intent"]
    await world.call("POST", "/_control/refunds", payment_intent=payment)
    await world.fulfill(await thin(world))
    await world.serve_all()
    assert [s.state.value for s in (await world.read("ann")).sources if s.stripe_id] == ["refunded"]


async def test_a_delayed_payment_that_failed_by_a_thin_event_alone_closes_the_purchase(world: World) -> None:  # noqa: F811
    """The session reads as it did before: complete and unpaid. Only the type of the event says that it failed."""
    session_id = await world.buy("ann", "export_pass", "payment", outcome="processing")
    await world.fulfill(await thin(world))
    await world.serve_all()
    assert await states(world.read) == [SourceState.PENDING_PAYMENT]
    told = len(await thin(world))
    await world.call("POST", f"/_control/checkout/sessions/{session_id}/settle", outcome="failed")
    await world.fulfill((await thin(world))[told:])
    await world.serve_all()
    assert await states(world.read) == []


async def test_a_renewal_that_failed_and_went_void_by_thin_events_alone_does_not_stay_free(world: World) -> None:  # noqa: F811
    """Stripe has an active subscription with a void invoice, and says of neither that a payment failed."""
    session_id = await world.buy("ann")
    subscription_id = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"]
    customer = (await world.call("GET", f"/v1/subscriptions/{subscription_id}"))["customer"]
    await world.call("POST", f"/_control/customers/{customer}/card", outcome="declined")
    await world.call("POST", "/_control/clock", advance_s=MONTH + DAY + 2 * 3_600)
    unpaid = (await world.call("GET", f"/v1/subscriptions/{subscription_id}"))["latest_invoice"]
    await world.call("POST", f"/_control/invoices/{unpaid}/void")
    await world.fulfill(await thin(world))
    await world.serve_all()
    assert (await world.call("GET", f"/v1/subscriptions/{subscription_id}"))["status"] == "active"
    read = ReadEntitlements(world.database, world.prices, lambda: datetime.now(UTC) + timedelta(days=45))
    assert await states(read) == [SourceState.PAYMENT_OVERDUE]


async def test_what_a_thin_event_told_joins_with_whatever_is_seen_before_or_after_it(database_url: str) -> None:
    """Before the object is seen it gives nothing and stays missing; what was told outlives the process that heard it."""
    failed = thin_event("checkout.session.async_payment_failed", "cs_test_ann", created=START + DAY)
    pending = event("checkout.session.completed", export_pass("ann", payment_status="unpaid"))
    for order in itertools.permutations([failed, pending]):
        for body in order:
            async with running(database_url) as service:
                await service.outcomes(body)
        async with running(database_url) as service:
            assert await states(service.read) == []
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT facts FROM stripe_objects").fetchall() == [
                ({"payment_failed": START + DAY},)
            ]
            connection.execute(
                "TRUNCATE stripe_objects, stripe_events, told_facts, rereads, customer_facts, customers CASCADE"
            )


@pytest.mark.parametrize("one_batch", [True, False])
async def test_a_thin_failure_of_an_invoice_that_is_not_known_waits_for_it(
    service: Service, database_url: str, one_batch: bool
) -> None:
    """It is asked for as what is missing, and when it comes the grace counts from the first failure that was told."""
    t = START + MONTH
    past_due = event("customer.subscription.updated", renewed("past_due", t), created=t + 2 * DAY)
    told = [thin_event("invoice.payment_failed", "in_2", created=t + n * DAY) for n in (3, 0, 1)]
    await service.outcomes(*purchase("ann"))
    if one_batch:
        await service.outcomes(*told, past_due)
    else:
        for body in (*told, past_due):
            await service.outcomes(body)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT kind FROM rereads WHERE object_id = 'in_2'").fetchall() == [("invoice",)]
        assert connection.execute("SELECT 1 FROM stripe_objects WHERE object_id = 'in_2'").fetchall() == []
    unpaid = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle", created=t)
    await service.outcomes(event("invoice.payment_failed", unpaid, created=t + 4 * DAY))
    with psycopg.connect(database_url) as connection:
        facts = connection.execute("SELECT facts FROM stripe_objects WHERE object_id = 'in_2'").fetchall()
        assert (facts, connection.execute("SELECT * FROM told_facts").fetchall()) == ([({"payment_failed": t},)], [])
    service.now = datetime.fromtimestamp(t + 7 * DAY - 1, UTC)
    assert await states(service.read) == [SourceState.GRACE]
    service.now = datetime.fromtimestamp(t + 7 * DAY, UTC)
    assert await states(service.read) == [SourceState.PAYMENT_OVERDUE]


async def test_what_is_told_while_the_object_is_being_written_is_not_lost(
    service: Service, other_service: Service, database_url: str
) -> None:
    """Two processes at once: one hears of the failure, the other sees the session."""
    for n in range(10):
        name = f"cs_test_{n}"
        pending = export_pass(f"c{n}", id=name, payment_status="unpaid")
        await asyncio.gather(
            service.outcomes(thin_event("checkout.session.async_payment_failed", name)),
            other_service.outcomes(event("checkout.session.completed", pending)),
        )
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT DISTINCT facts FROM stripe_objects").fetchall() == [
            ({"payment_failed": START},)
        ]
        assert connection.execute("SELECT * FROM told_facts").fetchall() == []


def renewed(status: str, start: int) -> dict[str, Any]:
    """Give Ann's subscription in a period that begins at `start`."""
    held = subscription("ann", status, latest_invoice="in_2")
    held["items"]["data"][0] |= {"current_period_start": start, "current_period_end": start + MONTH}
    return held


def notice(event_type: str, **related: Any) -> bytes:
    """Give a thin event about an object."""
    return json.dumps(
        {
            "id": f"evt_test_{event_type}",
            "object": "v2.core.event",
            "type": event_type,
            "created": "2026-11-01T08:00:00.000Z",
            "livemode": False,
            "related_object": {"id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1"} | related,
        }
    ).encode()


@pytest.mark.parametrize("event_type", sorted(HANDLED_TYPES))
async def test_every_used_type_asks_for_a_read_of_its_object_at_once(service: Service, event_type: str) -> None:
    assert await service.outcomes(notice(f"v1.{event_type}")) == ["applied"]
    assert await service.outcomes(notice(f"v1.{event_type}")) == ["duplicate"]
    claims = await service.database.run(lambda c: claim(c, 9))
    assert [(one.object_id, one.kind) for one in claims] == [("sub_1", HANDLED_TYPES[event_type])]


@pytest.mark.parametrize(
    "event_type", ["v1.billing.meter.error_report_triggered", "customer.subscription.updated", "v2.x"]
)
async def test_thin_events_of_other_types_are_recorded_and_ask_for_nothing(service: Service, event_type: str) -> None:
    assert await service.outcomes(notice(event_type)) == ["ignored"]
    assert await service.database.run(lambda c: claim(c, 9)) == []


@pytest.mark.parametrize("object_id", ["", "../customers/cus_1", "sub 1", "s" * 256, 7, None])
async def test_a_thin_event_that_names_no_object_is_quarantined(service: Service, object_id: object) -> None:
    """Its id would become a part of a path at Stripe."""
    assert await service.outcomes(notice("v1.customer.subscription.updated", id=object_id)) == ["quarantined"]
    assert await service.database.run(lambda c: claim(c, 9)) == []
