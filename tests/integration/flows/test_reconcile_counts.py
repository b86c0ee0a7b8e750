"""Whatever breaks a reconciliation off, and wherever: what it found and repaired is counted once, and it is complete only when it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from billing_service.flows import patience, reconcile, reconcile_objects
from billing_service.flows.reconcile import Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.request_budget import RequestBudget
from billing_service.storage.reconcile_runs import Run, RunState
from billing_service.stripe_api import listing
from billing_service.stripe_api.errors import StripeCallError
from tests.integration.flows.test_reconcile import later
from tests.integration.flows.test_refresh import PLENTY, World, world  # noqa: F401 - the fixture
from tests.stripe_proxy import Fault, busy, fail, held, lose_answer, refuse

NAMES = ("ann", "bob", "eve")
MOST_BREAKS = 200  # more requests than any of these walks makes


FAULTS: dict[str, Fault | None] = {"429": busy, "500": fail, "400": refuse, "cut": lose_answer, "stopped": None}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pages of two, and no patience with reads."""
    monkeypatch.setattr(listing, "PAGE_SIZE", 2)
    monkeypatch.setattr(reconcile, "FULFILL_MOST", 1)
    monkeypatch.setattr(reconcile_objects, "MOST", 2)
    monkeypatch.setattr(patience, "TRIES", 1)


async def broken(world: World, number: int, fault: Fault | None, walk: Callable[[], Awaitable[Run]]) -> Run | None:  # noqa: F811
    """Have the nth request of a walk meet a fault, or the walk be stopped at it; give the report of one that came to its end."""
    arrived = asyncio.Event()
    world.proxy.nth(number, fault or held(arrived, asyncio.Event()))
    walking = asyncio.ensure_future(walk())
    heard = asyncio.create_task(arrived.wait())
    await asyncio.wait({walking, heard}, return_when=asyncio.FIRST_COMPLETED)
    if not walking.done():
        walking.cancel()
    await asyncio.wait({walking})
    heard.cancel()
    if walking.cancelled():
        return None
    if walking.exception() is not None:
        assert isinstance(walking.exception(), StripeCallError)
        return None
    return walking.result()


async def broken_everywhere(world: World, fault: Fault | None, walk: Callable[[], Awaitable[Run]], step: int) -> Run:  # noqa: F811
    """Break a walk off again and again, `step` requests further each time, until it comes to its end."""
    for _ in range(MOST_BREAKS):
        run = await broken(world, step, fault, walk)
        if run is not None:
            return run
        assert world.sql("SELECT state FROM reconcile_runs ORDER BY run_id DESC LIMIT 1") in (
            [("failed",)],
            [("stopped",)],
        )
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize(("number", "fault"), [(1, "500"), (2, "429"), (5, "cut"), (5, "400"), (9, "stopped")])
async def test_events_are_counted_once_wherever_the_walk_was_broken_off(world: World, fault: str, number: int) -> None:  # noqa: F811
    for name in NAMES:
        await world.buy(name)
    reconcile = Reconcile(
        world.database, world.stripe.listing, world.fulfill, RequestBudget(world.database, PLENTY), later
    )
    since = int(later().timestamp()) - 600
    assert await broken(world, number, FAULTS[fault], lambda: reconcile.events(since)) is None
    run = await reconcile.events(since)
    assert (run.state, run.failed) == (RunState.COMPLETE, 0)
    total = world.sql("SELECT count(*) FROM stripe_events")[0][0]
    assert total > 12
    changes = world.sql("SELECT count(*) FROM entitlement_changes")[0][0]
    assert world.sql("SELECT sum(repaired), sum(drift) FROM reconcile_runs") == [(total, changes)]


async def gone_and_unheard(world: World, mode: str) -> None:  # noqa: F811
    """Have three buy of whom everything was heard, and three of whom nothing was; of the former one gave it up since."""
    for name in NAMES:
        await world.buy(name, LOOKUP_KEYS[mode], mode)
    await world.fulfill(await world.events())
    for name in NAMES:
        await world.buy(f"{name}-2", LOOKUP_KEYS[mode], mode)
    if mode == "subscription":
        for (subscription_id,) in world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")[:1]:
            await world.call("DELETE", f"/v1/subscriptions/{subscription_id}")
    else:
        for (payment,) in world.sql(
            "SELECT payload_view ->> 'payment_intent_id' FROM stripe_objects WHERE kind = 'checkout.session'"
        )[:1]:
            await world.call("POST", "/_control/refunds", payment_intent=payment)
    world.sql("DELETE FROM rereads")


LOOKUP_KEYS = {"subscription": "pro_monthly", "payment": "export_pass"}


@pytest.mark.parametrize("mode", LOOKUP_KEYS)
@pytest.mark.parametrize(("step", "fault"), [(7, "stopped"), (7, "429"), (8, "500"), (9, "cut"), (10, "400")])
async def test_objects_are_counted_once_wherever_the_walk_was_broken_off(
    world: World,  # noqa: F811
    fault: str,
    mode: str,
    step: int,
) -> None:
    await gone_and_unheard(world, mode)
    budget = RequestBudget(world.database, PLENTY)
    objects = ReconcileObjects(world.database, world.stripe.listing, world.reads, budget, "default", later)
    run = await broken_everywhere(
        world, FAULTS[fault], objects.subscriptions if mode == "subscription" else objects.purchases, step
    )
    assert (run.state, run.failed, run.denied) == (RunState.COMPLETE, 0, 0)
    assert world.sql("SELECT count(*) FROM reconcile_runs") == [(1,)]
    assert (run.repaired, run.drift) == ((4, 4) if mode == "subscription" else (10, 4))
    # Of a purchase its customer too, and a refund. Where a list of Stripe's broke it off, the next of these may be looked at once more.
    assert run.found in ({6} if mode == "subscription" else {13, 15})
    assert world.sql("SELECT count(*) FROM findings WHERE kind = 'drift'") == [(4,)]


async def test_a_purchase_at_which_a_walk_was_broken_off_is_read_with_all_that_bears_on_it(world: World) -> None:  # noqa: F811
    """The purchase itself was read, and is known since; that it was given back was not."""
    session_id = await world.buy("ann", "export_pass", "payment")
    payment = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["payment_intent"]
    await world.call("POST", "/_control/refunds", payment_intent=payment)
    budget = RequestBudget(world.database, PLENTY)
    objects = ReconcileObjects(world.database, world.stripe.listing, world.reads, budget, "default", later)
    world.proxy.next("GET", "/v1/refunds", fail)
    with pytest.raises(StripeCallError):
        await objects.purchases()
    assert "export_pass" in (await world.read("ann")).plan_keys
    assert (await objects.purchases()).state is RunState.COMPLETE
    assert [source.state.value for source in (await world.read("ann")).sources if source.stripe_id] == ["refunded"]


async def test_two_at_once_do_not_write_into_one_run(world: World) -> None:  # noqa: F811
    """An operator began one in another process, where it is under way: neither takes over what the other counts, nor where it is."""
    await gone_and_unheard(world, "subscription")
    budget = RequestBudget(world.database, PLENTY)
    arrived, go = asyncio.Event(), asyncio.Event()
    world.proxy.nth(3, held(arrived, go))
    first, second = (
        ReconcileObjects(world.database, world.stripe.listing, world.reads, budget, "default", later) for _ in range(2)
    )
    walking = asyncio.create_task(first.subscriptions())
    await arrived.wait()
    other = await second.subscriptions()
    go.set()
    one = await walking
    assert (one.state, other.state) == (RunState.COMPLETE, RunState.COMPLETE)
    assert one.run_id != other.run_id
    assert world.sql("SELECT sum(repaired), sum(drift) FROM reconcile_runs") == [(4, 4)]


async def test_one_that_was_killed_is_gone_on_with_once_it_was_quiet_for_a_while(world: World) -> None:  # noqa: F811
    await gone_and_unheard(world, "subscription")
    objects = ReconcileObjects(
        world.database, world.stripe.listing, world.reads, RequestBudget(world.database, PLENTY), "default", later
    )
    await broken(world, 5, None, objects.subscriptions)
    world.sql("UPDATE reconcile_runs SET state = 'running', update_time = now() - interval '5 minutes'")
    assert ((await objects.subscriptions()).found, world.sql("SELECT count(*) FROM reconcile_runs")) == (6, [(1,)])
