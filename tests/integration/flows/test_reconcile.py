"""Reconciliation: what the webhooks missed comes back through the same path, and the report says exactly how much."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from billing_service.flows.reconcile import Reconcile
from billing_service.storage.reconcile_runs import RunState
from billing_service.stripe_api.errors import StripeCallError
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture
from tests.stripe_proxy import fail, held


def later() -> datetime:
    """Give a time after the second of the last event: the window ends before the second in which the run begins."""
    return datetime.now(UTC) + timedelta(seconds=2)


@pytest.fixture
def reconcile(world: World) -> Reconcile:  # noqa: F811 - a fixture takes a fixture
    return Reconcile(world.database, world.stripe.listing, world.reads, world.fulfill, later)


async def test_everything_that_was_lost_comes_back_and_is_counted(
    world: World,  # noqa: F811
    reconcile: Reconcile,
) -> None:
    for name in ("ann", "bob", "eve"):
        await world.buy(name)
    heard = await world.events("customer.created", "invoice.paid")
    await world.fulfill(heard)
    run = await reconcile.events()
    total = len(await world.events())
    assert (run.state, run.found, run.repaired, run.failed) == (RunState.COMPLETE, total, total - len(heard), 0)
    assert run.drift == 3
    for name in ("ann", "bob", "eve"):
        assert (await world.read(name)).plan_keys == ("pro",)
    again = await reconcile.events()
    assert (again.repaired, again.drift) == (0, 0)


async def test_a_run_that_fails_is_never_complete_and_is_resumed(world: World, reconcile: Reconcile) -> None:  # noqa: F811
    await world.buy("ann")
    world.proxy.next("GET", "/v1/events", fail)
    with pytest.raises(StripeCallError):
        await reconcile.events()
    assert world.sql("SELECT state FROM reconcile_runs") == [("failed",)]
    assert (await reconcile.events()).state is RunState.COMPLETE
    assert (await world.read("ann")).plan_keys == ("pro",)


async def test_a_run_can_be_stopped_and_the_next_one_goes_on(world: World, reconcile: Reconcile) -> None:  # noqa: F811
    await world.buy("ann")
    arrived = asyncio.Event()
    world.proxy.next("GET", "/v1/events", held(arrived, asyncio.Event()))
    stopped = asyncio.create_task(reconcile.events())
    await arrived.wait()
    stopped.cancel()
    await asyncio.wait({stopped})
    assert world.sql("SELECT state FROM reconcile_runs") == [("stopped",)]
    assert (await reconcile.events()).state is RunState.COMPLETE


async def test_everything_of_one_customer_is_read_on_demand(world: World, reconcile: Reconcile) -> None:  # noqa: F811
    """A deletion that we missed is in no list of live ones: ours are read too."""
    await world.buy("ann")
    await world.fulfill(await world.events())
    ((subscription_id,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    await world.call("DELETE", f"/v1/subscriptions/{subscription_id}")
    assert (await world.read("ann")).plan_keys == ("pro",)
    assert await reconcile.customer("ann") == 1
    assert (await world.read("ann")).plan_keys == ("free",)
