"""Changes that wait for their payment (`payment_behavior=pending_if_incomplete`): nothing before it is paid, and nothing is lost without."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.views import ObjectKind
from billing_service.flows.apply import Context, refold
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.request_budget import RequestBudget
from billing_service.storage import customers
from billing_service.storage.database import Connection
from billing_service.storage.history import Cause, CauseKind
from billing_service.storage.reconcile_runs import RunState
from tests.integration.flows.test_reconcile import later
from tests.integration.flows.test_refresh import PLENTY, World, world  # noqa: F401 - the fixture


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


async def test_who_was_there_before_us_keeps_what_was_paid_although_a_change_expired(world: World) -> None:  # noqa: F811
    """Nobody told us of the purchase: of its invoices only the latest is read with the subscription, and that went void."""
    session_id = await world.buy("ann")
    session = await world.call("GET", f"/v1/checkout/sessions/{session_id}")
    await world.call("POST", f"/_control/customers/{session['customer']}/card", outcome="declined")
    path = f"/_control/subscriptions/{session['subscription']}/change"
    await world.call("POST", path, pending_if_incomplete=True, quantity=5)
    for hours in (1, 23):
        await world.reads.object(ObjectKind.SUBSCRIPTION, str(session["subscription"]))
        await world.serve_all()
        assert held_quantity(await read_at(world, timedelta(days=20))) == ("pro", 1, SourceState.ACTIVE)
        await world.call("POST", "/_control/clock", advance_s=hours * 3600)


async def changed_to_less(world: World) -> tuple[str, dict[str, Any]]:  # noqa: F811
    """Sell a subscription whose first debit is on its way, change it to a cheaper plan, and give the session's id and what it is then."""
    session_id = await world.buy("ann", outcome="processing")
    session = await world.call("GET", f"/v1/checkout/sessions/{session_id}")
    (item,) = (await world.call("GET", f"/v1/subscriptions/{session['subscription']}"))["items"]["data"]
    less = (await world.call("GET", "/v1/prices?lookup_keys[]=team_monthly"))["data"][0]["id"]
    change = {"items[0][id]": item["id"], "items[0][price]": less, "proration_behavior": "always_invoice"}
    await world.call("POST", "/_control/clock", advance_s=3600)
    return session_id, await world.call("POST", f"/v1/subscriptions/{session['subscription']}", **change)


@pytest.mark.parametrize("seed", range(4))
async def test_a_change_to_less_pays_for_nothing_while_the_first_debit_is_on_its_way(world: World, seed: int) -> None:  # noqa: F811
    """Stripe credits what nobody paid yet, and calls the change's invoice paid; then the debit comes back."""
    session_id, changed = await changed_to_less(world)
    paid = await world.call("GET", f"/v1/invoices/{changed['latest_invoice']}")
    assert (changed["status"], paid["status"], paid["amount_due"]) == ("active", "paid", 0)
    draw, heard = Random(seed), 0
    for settled, expected in ((None, SourceState.PENDING_PAYMENT), ("failed", SourceState.PAYMENT_OVERDUE)):
        if settled is not None:
            await world.call("POST", "/_control/clock", advance_s=3600)
            await world.call("POST", f"/_control/checkout/sessions/{session_id}/settle", outcome=settled)
        bodies = (await world.events())[heard:]
        heard += len(bodies)
        draw.shuffle(bodies)
        for body in bodies:
            await world.fulfill([body])
        await world.serve_all()
        assert held_quantity(await world.read("ann")) == ("team", 1, expected)


FORGET = "UPDATE stripe_objects SET payload_view = payload_view - '{0}', read_view = read_view - '{0}'"


async def as_an_earlier_release_kept_it(world: World, field: str) -> None:  # noqa: F811
    """Have the objects say nothing of what that release did not read, and everybody's facts gathered anew of them, as after an upgrade."""
    world.sql(FORGET.format(field))
    context = Context(await world.prices.plans(), datetime.now(UTC))

    async def gather(connection: Connection) -> None:
        await customers.lock(connection, ["ann"])
        await refold(connection, ["ann"], context, Cause(CauseKind.READ, None))

    await world.database.run(gather)


async def test_what_an_earlier_release_did_not_read_is_told_by_reconciling_subscriptions(world: World) -> None:  # noqa: F811
    """A credit that looks like a payment, and a pause for want of one; neither is told again by an event for a long time."""
    await changed_to_less(world)
    await world.hear_all()
    assert held_quantity(await world.read("ann")) == ("team", 1, SourceState.PENDING_PAYMENT)
    await as_an_earlier_release_kept_it(world, "asks_nothing")
    assert held_quantity(await world.read("ann")) == ("team", 1, SourceState.ACTIVE)
    world.sql("DELETE FROM rereads")
    objects = ReconcileObjects(
        world.database, world.stripe.listing, world.reads, RequestBudget(world.database, PLENTY), "default", later
    )
    assert (await objects.subscriptions()).state is RunState.COMPLETE
    assert held_quantity(await world.read("ann")) == ("team", 1, SourceState.PENDING_PAYMENT)


async def test_so_is_that_a_subscription_is_paused_because_nobody_paid(world: World) -> None:  # noqa: F811
    """It is kept of the subscription, and of what is gathered from it; a plan may give access while another pause lasts."""
    session = await world.call("GET", f"/v1/checkout/sessions/{await world.buy('ann')}")
    await world.hear_all()
    await world.call("POST", "/_control/settings", after_dunning="paused")
    await world.call("POST", f"/_control/customers/{session['customer']}/card", outcome="declined")
    await world.call("POST", "/_control/clock", advance_s=75 * 86_400)
    await world.hear_all()
    unpaid = "SELECT facts #> '{subscriptions,0,paused_unpaid}' FROM customers WHERE customer_id = 'ann'"
    assert world.sql(unpaid) == [(True,)]
    await as_an_earlier_release_kept_it(world, "paused_unpaid")
    assert world.sql(unpaid) == [(None,)]
    objects = ReconcileObjects(
        world.database, world.stripe.listing, world.reads, RequestBudget(world.database, PLENTY), "default", later
    )
    assert (await objects.subscriptions()).state is RunState.COMPLETE
    assert world.sql(unpaid) == [(True,)]
