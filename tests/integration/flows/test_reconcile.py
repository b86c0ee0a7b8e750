"""Reconciliation: what the webhooks missed comes back through the same path, and the report says exactly how much."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import HANDLED_TYPES
from billing_service.domain.operator import Order
from billing_service.flows import patience, reconcile_objects
from billing_service.flows.discard_quarantined_event import DiscardQuarantinedEvent
from billing_service.flows.reconcile import FIRST_WINDOW_S, OVERLAP_S, FulfillBatch, Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.replay import Replay
from billing_service.flows.request_budget import RequestBudget
from billing_service.flows.tallies import Tallies
from billing_service.storage import reconcile_runs, tally
from billing_service.storage.quarantine import Reason
from billing_service.storage.reconcile_runs import Run, RunState
from billing_service.stripe_api.errors import StripeCallError
from tests.integration.flows.test_refresh import PLENTY, World, world  # noqa: F401 - the fixture
from tests.stripe_proxy import Fault, Forward, busy, fail, held, lose_answer


def later() -> datetime:
    """Give a time after the second of the last event: the window ends before the second in which the run begins."""
    return datetime.now(UTC) + timedelta(seconds=2)


@pytest.fixture
def reconcile(world: World) -> Reconcile:  # noqa: F811 - a fixture takes a fixture
    return Reconcile(world.database, world.stripe.listing, world.fulfill, RequestBudget(world.database, PLENTY), later)


@pytest.fixture
def objects(world: World) -> ReconcileObjects:  # noqa: F811 - likewise
    budget = RequestBudget(world.database, PLENTY)
    return ReconcileObjects(world.database, world.stripe.listing, world.reads, budget, "default", later)


async def test_everything_that_was_lost_comes_back_and_is_counted(
    world: World,  # noqa: F811
    reconcile: Reconcile,
) -> None:
    for name in ("ann", "bob", "eve"):
        await world.buy(name)
    heard = await world.events("customer.created", "invoice.paid")
    await world.fulfill(heard)
    run = await reconcile.events()
    total = len(await world.events(*HANDLED_TYPES))
    heard = [body for body in heard if json.loads(body)["type"] in HANDLED_TYPES]
    assert (run.state, run.found, run.repaired, run.failed) == (RunState.COMPLETE, total, total - len(heard), 0)
    assert run.drift == 3
    told = await world.database.run(lambda c: tally.take(c, rate_per_s=1.0, burst=1))
    assert (told.missed, told.drift) == (run.repaired, 0), "what events explain is no drift to an alert"
    for name in ("ann", "bob", "eve"):
        assert (await world.read(name)).plan_keys == ("pro",)
    again = await reconcile.events()
    assert (again.repaired, again.drift) == (0, 0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one bad answer of Stripe's break a run off."""
    monkeypatch.setattr(patience, "TRIES", 1)


@pytest.mark.usefixtures("impatient")
async def test_a_run_that_fails_is_never_complete_and_is_resumed(world: World, reconcile: Reconcile) -> None:  # noqa: F811
    await world.buy("ann")
    world.proxy.next("GET", "/v1/events", fail)
    with pytest.raises(StripeCallError):
        await reconcile.events()
    assert world.sql("SELECT state FROM reconcile_runs") == [("failed",)]
    assert (await reconcile.events()).state is RunState.COMPLETE
    assert (await world.read("ann")).plan_keys == ("pro",)


async def spoil(_request: web.Request, forward: Forward) -> web.StreamResponse:
    """Give Stripe's events, one of them in a shape that nobody knows, and another that no database can write."""
    page = json.loads((await forward()).body)  # type: ignore[arg-type] # the proxy's are bytes
    for event in page["data"]:
        if event["type"] == "customer.subscription.created":
            event["data"]["object"]["status"] = {}
        elif event["type"] == "invoice.paid":
            event["data"]["object"]["id"] = "in_\u0000"
    return web.json_response(page)


async def test_what_an_operator_discarded_is_not_tried_again_and_fails_no_run(
    world: World,  # noqa: F811
    reconcile: Reconcile,
) -> None:
    """Or what will never be understood would keep every walk from being complete for as long as Stripe lists it."""
    await world.buy("ann")
    world.proxy.next("GET", "/v1/events", *[spoil] * 100)
    run = await reconcile.events()
    assert (run.state, run.failed) == (RunState.FAILED, 2)
    first, second = [row[0] for row in world.sql("SELECT event_key FROM quarantined_events ORDER BY reason")]
    discard = DiscardQuarantinedEvent(world.database)
    await discard(Order("r1", "eve", "ticket 7"), first)
    assert (await reconcile.events()).failed == 1
    await discard(Order("r2", "eve", "ticket 7"), second)
    run = await reconcile.events()
    assert (run.state, run.failed) == (RunState.COMPLETE, 0)
    assert world.sql("SELECT attempts FROM quarantined_events ORDER BY reason") == [(1,), (2,)]


async def test_what_a_webhook_brought_malformed_and_an_operator_discarded_fails_no_run_either(
    world: World,  # noqa: F811
    reconcile: Reconcile,
) -> None:
    """The webhook and Stripe's list tell it in other bytes; it is one event all the same, and discarded once."""
    await world.buy("ann")
    (created,) = await world.events("customer.subscription.created")
    told = json.loads(created)
    told["data"]["object"]["status"] = {}
    await world.fulfill([json.dumps(told, indent=2).encode()])
    world.proxy.next("GET", "/v1/events", *[spoil] * 100)
    assert (await reconcile.events()).failed == 2
    kept = world.sql("SELECT event_key, attempts FROM quarantined_events WHERE reason = 'malformed'")
    assert kept == [(told["id"], 2)]
    discard = DiscardQuarantinedEvent(world.database)
    for number, (key,) in enumerate(world.sql("SELECT event_key FROM quarantined_events")):
        await discard(Order(f"r{number}", "eve", "ticket 7"), key)
    assert (await reconcile.events()).state is RunState.COMPLETE


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


async def escaped(_request: web.Request, forward: Forward) -> web.StreamResponse:
    """Give Stripe's events, each with a text that is half a character, as whoever paid may have typed it."""
    page = json.loads((await forward()).body)  # type: ignore[arg-type] # the proxy's are bytes
    for event in page["data"]:
        event["data"]["object"]["description"] = "\ud83d"
    return web.json_response(page)


async def test_text_that_is_not_unicode_keeps_no_walk_from_its_end(world: World, reconcile: Reconcile) -> None:  # noqa: F811
    """What nobody uses harms nobody, in Stripe's list as in a webhook; known events too are on the pages of every walk."""
    await world.buy("ann")
    world.proxy.next("GET", "/v1/events", *[escaped] * 100)
    run = await reconcile.events()
    assert (run.state, run.failed, run.repaired) == (RunState.COMPLETE, 0, run.found)
    assert (await world.read("ann")).plan_keys == ("pro",)


class Walks:
    """Walks of the events, by a clock of the test's own and of the stand-in together."""

    def __init__(self, world: World, fulfill: FulfillBatch | None = None) -> None:  # noqa: F811
        self._world = world
        self._now = later()
        budget = RequestBudget(world.database, PLENTY)
        fulfill = fulfill or world.fulfill
        self.reconcile = Reconcile(world.database, world.stripe.listing, fulfill, budget, lambda: self._now)

    async def advance(self, time: timedelta) -> None:
        """Let time pass."""
        await self._world.call("POST", "/_control/clock", advance_s=int(time.total_seconds()))
        self._now += time

    async def lately(self, time: timedelta) -> Run:
        """Walk what an operator asks for, and give the run."""
        return await self.reconcile.events(int((self._now - time).timestamp()))


async def test_a_walk_over_the_last_hour_does_not_hide_what_was_lost_before(world: World) -> None:  # noqa: F811
    """The walk that nobody asks for begins where those before it cover everything, whatever was looked at since."""
    walks = Walks(world)
    assert (await walks.reconcile.events()).state is RunState.COMPLETE
    await world.buy("ann")
    await walks.advance(timedelta(days=4))
    assert (await walks.lately(timedelta(hours=1))).state is RunState.COMPLETE
    assert (await world.read("ann")).plan_keys == ("free",)
    await walks.advance(timedelta(minutes=5))
    run = await walks.reconcile.events()
    assert run.repaired > 0
    assert (await world.read("ann")).plan_keys == ("pro",)
    await walks.advance(timedelta(minutes=5))
    assert (await walks.reconcile.events()).since == run.until - OVERLAP_S, "and from there on nothing is walked twice"


async def test_a_run_that_is_gone_on_with_looks_once_more_at_its_last_minutes(world: World) -> None:  # noqa: F811
    """Events become visible in Stripe's list out of order."""
    walks = Walks(world)
    now = int(later().timestamp())
    world.sql(f"""
        INSERT INTO reconcile_runs (since, until, done_until, state) VALUES ({now - 9000}, {now}, {now - 3600}, 'stopped')
    """)  # noqa: S608 - of the test's own
    assert (await walks.lately(timedelta(hours=2))).since == now - 3600 - OVERLAP_S


@pytest.mark.usefixtures("impatient")
async def test_a_failed_walk_is_not_forgotten_for_a_shorter_one(world: World) -> None:  # noqa: F811
    walks = Walks(world)
    await world.buy("ann")
    await walks.advance(timedelta(days=2))
    world.proxy.next("GET", "/v1/events", fail)
    with pytest.raises(StripeCallError):
        await walks.reconcile.events()
    await walks.lately(timedelta(hours=1))
    await walks.advance(timedelta(minutes=5))
    await walks.reconcile.events()
    assert (await world.read("ann")).plan_keys == ("pro",)


async def test_the_first_walk_is_a_whole_one_though_somebody_looked_at_the_last_hour_before(world: World) -> None:  # noqa: F811
    walks = Walks(world)
    await world.buy("ann")
    await walks.advance(timedelta(days=2))
    await walks.lately(timedelta(hours=1))
    await walks.reconcile.events()
    assert (await world.read("ann")).plan_keys == ("pro",)


async def test_an_event_in_quarantine_makes_no_later_walk_longer_and_is_not_lost(world: World) -> None:  # noqa: F811
    """It stays where it is, with its bytes and an alert of its own; what is walked again and again would be up to a month."""
    walks = Walks(world)
    await world.buy("ann")
    world.proxy.next("GET", "/v1/events", *[spoil] * 1000)
    run = await walks.reconcile.events()
    assert (run.state, run.failed) == (RunState.FAILED, 2)
    for failed in (2, 0, 0):  # the next walk has its minutes again
        await walks.advance(timedelta(days=1))
        before, run = run, await walks.reconcile.events()
        assert (run.since, run.failed) == (before.until - OVERLAP_S, failed)
    assert run.state is RunState.COMPLETE
    assert world.sql("SELECT count(*) FROM quarantined_events") == [(2,)]
    world.proxy.mend("GET", "/v1/events")
    assert (await walks.lately(timedelta(days=4))).failed == 0, "who asks has it looked at once more"
    assert world.sql("SELECT count(*) FROM quarantined_events") == [(0,)]


DAYS = 86_400
COVERS: dict[
    str, tuple[list[tuple[float, float, float, str, int]], float | None]
] = {  # runs as (since, until, done_until, state, failed), and where the cover from 10 days on, less 600 s, ends
    "one after the other": ([(9, 12, 12, "complete", 0), (12 - 0.01, 13, 13, "complete", 0)], 13),
    "a gap is filled": ([(9, 12, 12, "complete", 0), (14, 15, 15, "complete", 0), (11, 14.5, 14.5, "complete", 0)], 15),
    "a gap is not": ([(9, 12, 12, "complete", 0), (14, 15, 15, "complete", 0), (14, 16, 16, "complete", 0)], 12),
    "the last minutes do not count": ([(9, 12, 12, "complete", 0), (12, 15, 15, "complete", 0)], 12),
    "what was stopped counts as far as it came": ([(9, 12, 12, "complete", 0), (11, 15, 14, "stopped", 0)], 14),
    "what failed is in quarantine": ([(9, 12, 12, "complete", 0), (11, 15, 15, "failed", 1)], 15),
    "what was broken off counts as far as it came": ([(9, 12, 12, "complete", 0), (11, 15, 14, "failed", 0)], 14),
    "a longer one covers a shorter": ([(9, 15, 15, "complete", 0), (11, 12, 12, "complete", 0)], 15),
    "nothing within reach": ([(1, 9, 9, "complete", 0)], None),
}


@pytest.mark.parametrize("name", COVERS)
async def test_a_walk_begins_where_those_before_cover_everything(world: World, name: str) -> None:  # noqa: F811
    """The cover: what runs came through without a failure, from as far back as Stripe lists, and up to the first gap."""
    runs, ends = COVERS[name]
    for since, until, done, state, failed in runs:
        row = f"{int(since * DAYS)}, {int(until * DAYS)}, {int(done * DAYS)}, '{state}', {failed}"
        world.sql(f"INSERT INTO reconcile_runs (since, until, done_until, state, failed) VALUES ({row})")  # noqa: S608
    oldest = 10 * DAYS
    cover = await world.database.run(
        lambda c: reconcile_runs.cover(c, oldest, lead_s=FIRST_WINDOW_S, overlap_s=OVERLAP_S)
    )
    assert cover is not None
    assert cover.until == (oldest if ends is None else ends * DAYS - OVERLAP_S)


async def shown(world: World, now: datetime) -> int:  # noqa: F811
    """Give what an operator is shown of how far events were reconciled."""
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    tallies = Tallies(world.database, PLENTY, lambda: now, lambda _tally, until: told.set_result(until))
    running = asyncio.create_task(tallies.run())
    try:
        return await asyncio.wait_for(told, 20)
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.mark.parametrize("name", COVERS)
async def test_an_operator_is_shown_what_was_walked_without_a_gap(world: World, name: str) -> None:  # noqa: F811
    """A walk over the last hour does not say that all is well, nor does one that is unfinished, nor one over a customer."""
    now = datetime.fromtimestamp(40 * DAYS, UTC)  # Stripe lists events from 10 days on
    assert await shown(world, now) == 0
    world.sql(
        "INSERT INTO reconcile_runs (since, until, done_until, state) VALUES (3000000, 3200000, 3000000, 'running')"
    )
    assert await shown(world, now) == 0
    world.sql("DELETE FROM reconcile_runs")
    runs, ends = COVERS[name]
    for since, until, done, state, failed in runs:
        row = f"{int(since * DAYS)}, {int(until * DAYS)}, {int(done * DAYS)}, '{state}', {failed}"
        world.sql(f"INSERT INTO reconcile_runs (since, until, done_until, state, failed) VALUES ({row})")  # noqa: S608
    world.sql(
        "INSERT INTO reconcile_runs (since, until, done_until, state, scope) VALUES (0, 3400000, 3400000, 'complete', 'customer')"
    )
    assert await shown(world, now) == (10 * DAYS + OVERLAP_S if ends is None else ends * DAYS)


async def test_everything_of_one_customer_is_read_on_demand(world: World, objects: ReconcileObjects) -> None:  # noqa: F811
    """A deletion that we missed is in no list of live ones: ours are read too."""
    await world.buy("ann")
    await world.fulfill(await world.events())
    ((subscription_id,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    await world.call("DELETE", f"/v1/subscriptions/{subscription_id}")
    assert (await world.read("ann")).plan_keys == ("pro",)
    run = await objects.customer("ann")
    assert (run.state, run.drift) == (RunState.COMPLETE, 1)
    assert (await world.read("ann")).plan_keys == ("free",)


@pytest.mark.parametrize("linked", [True, False])
async def test_everything_of_one_customer_has_what_came_back_of_their_subscriptions(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
    linked: bool,
) -> None:
    """A dispute and a refund that nobody told us of, whether or not we were told what was paid by that payment."""
    await world.buy("ann")
    await world.fulfill(
        [body for body in await world.events() if linked or json.loads(body)["type"] != "invoice_payment.paid"]
    )
    payment = (await world.call("GET", "/v1/invoice_payments"))["data"][0]["payment"]["payment_intent"]
    await world.call("POST", "/_control/refunds", payment_intent=payment, amount=100)
    await world.call("POST", "/_control/disputes", payment_intent=payment)
    run = await objects.customer("ann")
    assert (run.state, run.drift) == (RunState.COMPLETE, 1)
    assert [s.state.value for s in (await world.read("ann")).sources if s.stripe_id] == ["disputed"]
    assert world.sql("SELECT count(*) FROM stripe_objects WHERE kind IN ('refund', 'dispute', 'invoice_payment')") == [
        (3,)
    ]
    again = await objects.customer("ann")
    assert (again.state, again.repaired, again.drift) == (RunState.COMPLETE, 0, 0)


async def test_all_subscriptions_are_those_that_we_hold_and_those_that_stripe_lists(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
) -> None:
    """Of one we missed the end, of another the beginning, of a third nothing. What moved without an event is a finding."""
    for name in ("ann", "bob", "eve"):
        await world.buy(name)
    heard = [body for body in await world.events() if "eve" not in await whose(world, body)]
    await world.fulfill(heard)
    ((ann,),) = world.sql("""
        SELECT object_id FROM stripe_objects JOIN stripe_customers USING (stripe_customer_id)
        WHERE kind = 'subscription' AND customer_id = 'ann'
    """)
    await world.call("DELETE", f"/v1/subscriptions/{ann}")
    run = await objects.subscriptions()
    assert (run.state, run.found, run.drift) == (RunState.COMPLETE, 3, 2)
    assert [(await world.read(name)).plan_keys for name in ("ann", "bob", "eve")] == [("free",), ("pro",), ("pro",)]
    found = world.sql("SELECT customer_id FROM findings WHERE kind = 'drift' ORDER BY 1")
    assert found == [("ann",), ("eve",)]
    assert (await world.database.run(lambda c: tally.take(c, rate_per_s=1.0, burst=1))).drift == 2
    again = await objects.subscriptions()
    assert (again.repaired, again.drift) == (0, 0)


async def whose(world: World, body: bytes) -> str:  # noqa: F811
    """Give the customer whom an event is about."""
    obj = json.loads(body)["data"]["object"]
    customer = obj["id"] if obj["object"] == "customer" else obj.get("customer")
    if customer is None:
        return ""
    return str((await world.call("GET", f"/v1/customers/{customer}"))["metadata"].get("billing_customer_id", ""))


async def test_purchases_are_read_with_what_came_back(world: World, objects: ReconcileObjects) -> None:  # noqa: F811
    """Every event was lost: the purchase, a refund of another one, and a dispute of a third."""
    payments = {}
    for name in ("ann", "bob", "eve"):
        session_id = await world.buy(name, "export_pass", "payment")
        payments[name] = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["payment_intent"]
    await world.call("POST", "/_control/refunds", payment_intent=payments["bob"])
    await world.call("POST", "/_control/disputes", payment_intent=payments["eve"])
    run = await objects.purchases()
    assert run.state is RunState.COMPLETE
    states = {
        name: [source.state.value for source in (await world.read(name)).sources if source.stripe_id]
        for name in payments
    }
    assert states == {"ann": ["ending"], "bob": ["refunded"], "eve": ["disputed"]}


@pytest.mark.parametrize(
    ("scope", "mode"), [("purchases", "payment"), ("customer", "payment"), ("customer", "subscription")]
)
async def test_a_stripe_customer_whose_end_was_lost_ends_what_they_bought(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
    scope: str,
    mode: str,
) -> None:
    """And is known to be gone, so that nobody is sent to pay as them."""
    session_id = await world.buy("ann", "export_pass" if mode == "payment" else "pro_monthly", mode)
    await world.fulfill(await world.events())
    bought_by = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["customer"]
    await world.call("DELETE", f"/v1/customers/{bought_by}")
    run = await (objects.purchases() if scope == "purchases" else objects.customer("ann"))
    assert (run.state, run.drift > 0) == (RunState.COMPLETE, True)
    assert [source.state.value for source in (await world.read("ann")).sources if source.stripe_id] == ["ended"]
    assert world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'customer' AND read_terminal") == [(bought_by,)]


@pytest.mark.parametrize("scope", ["purchases", "customer"])
@pytest.mark.parametrize(("outcome", "state"), [("failed", None), (None, "pending_payment"), ("succeeded", "ending")])
async def test_a_delayed_payment_whose_end_was_lost_is_read_from_its_payment_intent(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
    scope: str,
    outcome: str | None,
    state: str | None,
) -> None:
    """A failed one leaves the session complete and unpaid, as one that is on its way is."""
    session_id = await world.buy("ann", "export_pass", "payment", outcome="processing")
    await world.fulfill(await world.events())
    world.sql("DELETE FROM rereads")
    if outcome is not None:
        await world.call("POST", f"/_control/checkout/sessions/{session_id}/settle", outcome=outcome)
    run = await (objects.purchases() if scope == "purchases" else objects.customer("ann"))
    assert (run.state, run.drift) == (RunState.COMPLETE, int(outcome is not None))
    sources = [source for source in (await world.read("ann")).sources if source.stripe_id]
    assert [source.state.value for source in sources] == ([state] if state else [])


async def test_a_walk_over_objects_goes_on_where_it_was_stopped(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconcile_objects, "MOST", 1)
    for name in ("ann", "bob", "eve"):
        await world.buy(name)
    await world.fulfill(await world.events())
    arrived = asyncio.Event()
    told: list[Run] = []
    ids = [row[0] for row in world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription' ORDER BY 1")]
    world.proxy.next("GET", f"/v1/subscriptions/{ids[1]}", held(arrived, asyncio.Event()))
    stopped = asyncio.create_task(objects.subscriptions())
    await arrived.wait()
    stopped.cancel()
    await asyncio.wait({stopped})
    assert world.sql("SELECT state, position FROM reconcile_runs") == [("stopped", f"ours:{ids[0]}")]
    run = await objects.subscriptions(told.append)
    assert (run.state, run.found) == (RunState.COMPLETE, 3)
    assert [run.position for run in told[:2]] == [f"ours:{ids[0]}", f"ours:{ids[1]}"]  # where it stood, and then on
    assert world.sql("SELECT count(*) FROM reconcile_runs") == [(1,)]


@pytest.mark.parametrize(("age", "plans"), [("23 hours", ("pro",)), ("25 hours", ("free",))])
async def test_a_walk_over_objects_that_was_left_long_ago_is_begun_anew(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
    age: str,
    plans: tuple[str, ...],
) -> None:
    """Going on with it, what it went through then would count as looked at today; a restored backup may tell of such a run too."""
    await world.buy("ann")
    await world.fulfill(await world.events())
    ((subscription_id,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    await world.call("DELETE", f"/v1/subscriptions/{subscription_id}")
    world.sql(f"""
        INSERT INTO reconcile_runs (since, until, done_until, state, scope, position, update_time)
        VALUES (0, 1000, 0, 'stopped', 'subscriptions', 'ours:{subscription_id}', now() - interval '{age}')
    """)  # noqa: S608 - of the test's own
    assert (await objects.subscriptions()).state is RunState.COMPLETE
    assert (await world.read("ann")).plan_keys == plans


async def test_what_stripe_does_not_show_is_a_finding_and_no_failure(
    world: World,  # noqa: F811
    objects: ReconcileObjects,
) -> None:
    await world.buy("ann")
    await world.fulfill(await world.events())
    ((subscription_id,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    world.sql("UPDATE stripe_objects SET object_id = 'sub_gone' WHERE kind = 'subscription'")
    run = await objects.subscriptions()
    assert (run.state, run.denied, run.failed) == (RunState.COMPLETE, 1, 0)
    assert ("denied_by_stripe", "sub_gone") in world.sql("SELECT kind, subject FROM findings")
    assert subscription_id in [row[0] for row in world.sql("SELECT object_id FROM stripe_objects")]


def spoilt(*path: str) -> Fault:
    """Let Stripe answer, with a value at a path that no database can write."""

    async def spoil(_request: web.Request, forward: Forward) -> web.StreamResponse:
        body = json.loads((await forward()).body)  # type: ignore[arg-type] # the proxy's are bytes
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = "pro\u0000"
        return web.json_response(body)

    return spoil


async def test_an_object_that_the_database_refuses_fails_alone(world: World, objects: ReconcileObjects) -> None:  # noqa: F811
    """Its neighbours are read, and the run says that it failed."""
    ids = [await world.buy(name, "export_pass", "payment") for name in ("ann", "bob", "eve")]
    world.proxy.next("GET", f"/v1/checkout/sessions/{sorted(ids)[1]}", spoilt("metadata", "billing_plan_key"))
    run = await objects.purchases()
    assert (run.state, run.failed) == (RunState.FAILED, 1)
    had = ["export_pass" in (await world.read(name)).plan_keys for name in ("ann", "bob", "eve")]
    assert had.count(True) == 2


async def test_a_run_that_breaks_off_for_whatever_reason_says_so(world: World, objects: ReconcileObjects) -> None:  # noqa: F811
    """A list of Stripe's in a shape that nobody knows; the run would say for ever that it goes on."""
    await world.buy("ann")
    await world.fulfill(await world.events())

    async def unknown(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        return web.json_response({"data": [{"id": "ch_1", "payment_intent": 3}], "has_more": False})

    world.proxy.next("GET", "/v1/charges", unknown)
    with pytest.raises(MalformedError):
        await objects.customer("ann")
    assert world.sql("SELECT state FROM reconcile_runs") == [("failed",)]


@pytest.mark.parametrize("fault", [fail, lose_answer, busy])
@pytest.mark.parametrize("path", ["/v1/events", "/v1/subscriptions", "/v1/checkout/sessions", "/v1/refunds", "one"])
async def test_what_stripe_does_not_answer_is_asked_again(
    world: World,  # noqa: F811
    reconcile: Reconcile,
    objects: ReconcileObjects,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    path: str,
) -> None:
    """A list as well as a single object: a run of hours does not end by one bad answer."""
    monkeypatch.setattr(patience, "PAUSE_S", 0)
    await world.buy("ann")
    await world.buy("bob", "export_pass", "payment")
    await world.fulfill(await world.events())
    ((subscription_id,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    faulty = f"/v1/subscriptions/{subscription_id}" if path == "one" else path
    world.proxy.next("GET", faulty, *[fault] * (patience.TRIES - 1))
    for run in (await reconcile.events(), await objects.subscriptions(), await objects.purchases()):
        assert run.state is RunState.COMPLETE
    assert world.proxy.calls["GET", faulty] >= patience.TRIES


async def test_an_event_of_whom_a_newer_release_wrote_keeps_no_walk_from_its_end(world: World) -> None:  # noqa: F811
    """It was taken back since. Nobody sends the event again, so it is put aside, and taken in when that release is there once more."""
    walks = Walks(world, world.fulfill.backlog)
    await world.buy("ann")
    await world.fulfill(await world.events())
    ((subscription_id,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    known = world.sql("SELECT payload_view ->> 'status' FROM stripe_objects WHERE kind = 'subscription'")
    assert known == [("active",)]
    written = "UPDATE stripe_objects SET payload_view = jsonb_set(payload_view, '{{status}}', '\"{}\"') WHERE object_id = '{}'"
    world.sql(written.format("of_next_year", subscription_id))
    await walks.advance(timedelta(minutes=5))
    await world.call("DELETE", f"/v1/subscriptions/{subscription_id}")
    await walks.advance(timedelta(days=1))
    await world.buy("bob")
    run = await walks.reconcile.events()
    assert (run.state, run.failed > 0) == (RunState.FAILED, True)
    assert (await world.read("bob")).plan_keys == ("pro",)
    put_aside = world.sql("SELECT reason, detail FROM quarantined_events")
    assert set(put_aside) == {("unwritable", "cannot be taken in: what is kept of a subscription is not understood")}
    await walks.advance(timedelta(days=1))
    assert (await walks.reconcile.events()).until > run.until
    world.sql(written.format("active", subscription_id))
    await Replay(world.database, world.fulfill.backlog).reasons([Reason.UNWRITABLE])
    assert (await world.read("ann")).plan_keys == ("free",)
    assert world.sql("SELECT 1 FROM quarantined_events") == []


async def test_an_object_that_a_newer_release_wrote_fails_alone(world: World, objects: ReconcileObjects) -> None:  # noqa: F811
    """It was taken back. Its neighbours are read, and the run says that it failed."""
    for name in ("ann", "bob", "eve"):
        await world.buy(name)
    await world.fulfill(await world.events())
    world.sql("""
        UPDATE stripe_objects SET payload_view = jsonb_set(payload_view, '{status}', '"of_next_year"')
        WHERE object_id = (SELECT min(object_id) FROM stripe_objects WHERE kind = 'subscription')
    """)
    run = await objects.subscriptions()
    assert (run.state, run.found, run.failed) == (RunState.FAILED, 2, 1)
