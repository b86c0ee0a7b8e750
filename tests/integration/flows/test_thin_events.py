"""Thin events: they say that something happened to an object, and Stripe is asked what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from billing_service.domain.observation import HANDLED_TYPES
from billing_service.storage.rereads import claim
from sandbox.stripe.thin_events import thin_twin
from tests.integration.flows.conftest import Service
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture


async def thin(world: World) -> list[bytes]:  # noqa: F811 - a fixture's name
    """Give the thin twin of every event of Stripe's so far."""
    twins = [thin_twin(json.loads(body)) for body in await world.events()]
    return [json.dumps(twin).encode() for twin in twins if twin is not None]


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
