"""Changes that wait for their payment (`payment_behavior=pending_if_incomplete`): nothing before it is paid, and nothing is lost without."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.views import ObjectKind
from billing_service.flows.read_entitlements import ReadEntitlements
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture


async def held(world: World, **change: object) -> str:  # noqa: F811
    """Have Ann buy, and change what she has on a card that is declined; gives the subscription's id. All of it is heard."""
    session_id = await world.buy("ann")
    session = await world.call("GET", f"/v1/checkout/sessions/{session_id}")
    await world.call("POST", f"/_control/customers/{session['customer']}/card", outcome="declined")
    await world.call("POST", "/_control/clock", advance_s=3600)
    path = f"/_control/subscriptions/{session['subscription']}/change"
    await world.call("POST", path, pending_if_incomplete=True, **change)
    await world.fulfill(await world.events())
    return str(session["subscription"])


async def read_at(world: World, after: timedelta) -> Entitlements:  # noqa: F811
    """Give what Ann has so long from now."""
    return await ReadEntitlements(world.database, world.prices, lambda: datetime.now(UTC) + after)("ann")


def held_quantity(answer: Entitlements) -> tuple[str | None, int, SourceState]:
    """Give plan, quantity and state of the one thing that was bought."""
    (source,) = [one for one in answer.sources if one.stripe_id]
    return source.plan_key, source.quantity, source.state


async def test_a_pending_update_changes_nothing_before_it_is_paid_and_then_by_its_own_event(world: World) -> None:  # noqa: F811
    subscription_id = await held(world, quantity=5)
    assert held_quantity(await world.read("ann")) == ("pro", 1, SourceState.ACTIVE)
    found = await world.call("GET", f"/v1/subscriptions/{subscription_id}")
    assert found["pending_update"]["subscription_items"][0]["quantity"] == 5
    await world.call("POST", "/_control/clock", advance_s=60)  # of one second the order would be a tie
    await world.call("POST", f"/_control/invoices/{found['latest_invoice']}/collect", outcome="paid")
    await world.fulfill(await world.events("customer.subscription.pending_update_applied"))
    assert held_quantity(await world.read("ann")) == ("pro", 5, SourceState.ACTIVE)


@pytest.mark.parametrize("seed", range(4))
async def test_a_pending_update_that_expires_takes_nothing_of_what_was_paid(world: World, seed: int) -> None:  # noqa: F811
    """Its invoice failed and went void, which at a renewal would be the end; in any order of the events."""
    subscription_id = await held(world, lookup_key="team_monthly", quantity=5)
    await world.call("POST", "/_control/clock", advance_s=23 * 3600)
    bodies = await world.events()
    assert b"customer.subscription.pending_update_expired" in b"".join(bodies)
    Random(seed).shuffle(bodies)
    for body in bodies:
        await world.fulfill([body])
    found = await world.call("GET", f"/v1/subscriptions/{subscription_id}")
    assert (found["status"], found["pending_update"]) == ("active", None)
    assert (await world.call("GET", f"/v1/invoices/{found['latest_invoice']}"))["status"] == "void"
    for days in (1, 20):
        assert held_quantity(await read_at(world, timedelta(days=days))) == ("pro", 1, SourceState.ACTIVE)


async def test_a_pending_update_whose_events_are_lost_is_settled_by_a_read(world: World) -> None:  # noqa: F811
    """Paid or expired, both heard of by a re-read alone."""
    subscription_id = await held(world, quantity=5)
    latest = (await world.call("GET", f"/v1/subscriptions/{subscription_id}"))["latest_invoice"]
    await world.call("POST", f"/_control/invoices/{latest}/collect", outcome="paid")
    await world.reads.object(ObjectKind.SUBSCRIPTION, subscription_id)
    assert held_quantity(await world.read("ann")) == ("pro", 5, SourceState.ACTIVE)
    await world.call(
        "POST", f"/_control/subscriptions/{subscription_id}/change", quantity=9, pending_if_incomplete=True
    )
    await world.call("POST", "/_control/clock", advance_s=23 * 3600)
    await world.reads.object(ObjectKind.SUBSCRIPTION, subscription_id)
    assert held_quantity(await read_at(world, timedelta(days=20))) == ("pro", 5, SourceState.ACTIVE)
