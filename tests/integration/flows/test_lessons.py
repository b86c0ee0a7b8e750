"""What went wrong elsewhere, and must hold here: concurrent deliveries, stale reads, and what one source does to another."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.views import ObjectKind
from billing_service.flows.stripe_customer import StripeCustomers
from billing_service.storage.history import CHANNEL
from tests.integration.flows.conftest import Service, running
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture
from tests.stripe_events import MONTH, START, event, export_pass, invoice, purchase, session, subscription
from tests.stripe_proxy import held

DAY = 86_400
ROOT = Path(__file__).parents[3]


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
    made = StripeCustomers(world.database, world.stripe, world.prices, world.reads, lambda: datetime.now(UTC))
    ids = [await made.ensure(name, "same@example.com") for name in ("ann", "bob")]
    assert len(set(ids)) == 2
    assert [path for method, path in world.proxy.calls if method == "GET" and "customers" in path] == []


async def test_one_merge_for_everything(world: World) -> None:  # noqa: F811
    """What Stripe is asked and what it sends go through one merge: wherever a read comes among the events, the end is the same."""
    views = set()
    for number, place in enumerate(("before", "between", "beside", "after")):
        name = f"guest{number}"
        session_id = await world.buy(name)
        subscription_id = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"]
        await world.call("POST", "/_control/clock", advance_s=60)  # of one second the order would be a tie
        await world.call("POST", f"/_control/subscriptions/{subscription_id}/change", quantity=3)
        own = [body for body in await world.events() if f'"{subscription_id}"'.encode() in body]
        read = world.reads.object(ObjectKind.SUBSCRIPTION, subscription_id)
        match place:
            case "before":
                await read
                await world.fulfill(own)
            case "between":
                await world.fulfill(own[: len(own) // 2])
                await read
                await world.fulfill(own[len(own) // 2 :])
            case "beside":
                await asyncio.gather(world.fulfill(own), read)
            case _:
                await world.fulfill(own)
                await read
        answer = await world.read(name)
        views.add((answer.plan_keys, tuple((s.quantity, s.state) for s in answer.sources)))
    assert len(views) == 1
    assert {state for _, sources in views for _, state in sources} == {SourceState.ACTIVE}


def test_nothing_but_the_merge_writes_what_is_known_of_an_object() -> None:
    """A second path that trusted something else would fight with the first."""
    writers = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "billing_service").rglob("*.py"))
        if re.search(r"\bobjects\.save\(", path.read_text())
    ]
    assert writers == ["billing_service/flows/apply.py"]


@pytest.mark.parametrize("state", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
async def test_a_conflict_is_retried_inside_and_is_no_fault_of_the_event(
    service: Service, database_url: str, state: str
) -> None:
    """PostgreSQL itself raises it, twice, in the middle of a batch; the caller hears of one commit, and nothing is put aside."""
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE SEQUENCE fuse")  # not undone with the transaction
        connection.execute(f"""
            CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF nextval('fuse') <= 2 THEN RAISE EXCEPTION 'in the way' USING ERRCODE = '{state}'; END IF;
                RETURN NULL;
            END $$
        """)
        connection.execute(
            "CREATE TRIGGER conflict AFTER INSERT ON stripe_objects FOR EACH STATEMENT EXECUTE FUNCTION conflict()"
        )
    assert await service.outcomes(*purchase("ann")) == ["applied"] * 4
    assert (await service.read("ann")).revision == 1
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM quarantined_events").fetchone() == (0,)
        assert connection.execute("SELECT last_value FROM fuse").fetchone() == (3,)


async def test_postgres_alone_knows_what_is_entitled_and_what_was_done(service: Service, database_url: str) -> None:
    """A process that has just started answers as the one before, and takes no event twice: nothing is kept that could be evicted."""
    bodies = purchase("ann")
    await service.outcomes(*bodies)
    async with running(database_url) as fresh:
        assert (await fresh.read("ann")).plan_keys == ("pro",)
        assert await fresh.outcomes(*bodies) == ["duplicate"] * 4


async def test_a_payment_that_comes_at_last_ends_the_grace(service: Service) -> None:
    """Also where it is heard of before the subscription is active again."""
    await service.outcomes(*purchase("ann"))
    failed_at = START + MONTH
    late = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle")
    past_due = subscription("ann", "past_due", latest_invoice="in_2", start=START + MONTH)
    await service.outcomes(
        event("invoice.payment_failed", late, created=failed_at),
        event("customer.subscription.updated", past_due, created=failed_at),
    )
    service.now = datetime.fromtimestamp(failed_at + DAY, UTC)
    assert [s.state for s in (await service.read("ann")).sources if s.stripe_id] == [SourceState.GRACE]
    paid = event("invoice.paid", late | {"status": "paid"}, created=failed_at + DAY)
    running_again = event("customer.subscription.updated", past_due | {"status": "active"}, created=failed_at + DAY)
    await service.outcomes(paid)
    await service.outcomes(running_again)
    service.now = datetime.fromtimestamp(failed_at + 20 * DAY, UTC)
    assert [s.state for s in (await service.read("ann")).sources if s.stripe_id] == [SourceState.ACTIVE]


async def test_a_stripe_customer_who_is_deleted_takes_along_everything_it_paid_for(service: Service) -> None:
    """The subscription, and the purchase that was for ever; in either order."""
    for name, late in (("ann", False), ("bob", True)):
        bodies = [*purchase(name), event("checkout.session.completed", export_pass(name, id=f"cs_pass_{name}"))]
        gone = event("customer.deleted", {"id": f"cus_{name}", "object": "customer"}, created=START + 9)
        await service.outcomes(*([*bodies, gone] if late else [gone, *bodies]))
        answer = await service.read(name)
        assert answer.plan_keys == ("free",)
        assert {s.state for s in answer.sources if s.stripe_id} == {SourceState.ENDED}


async def test_a_batch_of_any_size_notifies_once_and_says_nothing_in_it(service: Service, database_url: str) -> None:
    """A payload with what changed would overflow, and one notification per event would end group commit."""
    names = [f"customer-with-a-long-name-{number:04}" for number in range(64)]
    bodies = [event("checkout.session.completed", export_pass(name)) for name in names]
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        await service.outcomes(*bodies)
        batches = listener.execute("SELECT count(DISTINCT xmin::text) FROM stripe_events").fetchone()
        heard = list(listener.notifies(timeout=0))
    assert [one.payload for one in heard] == [""] * len(heard)
    assert batches is not None
    assert 1 <= len(heard) <= batches[0]
