"""Fulfilment: recorded and effective in one transaction, whatever comes, how often, and in which order."""

from __future__ import annotations

import asyncio
import itertools
import json

import psycopg
import pytest

from billing_service.domain.access import SourceState
from billing_service.storage import customers
from billing_service.storage.database import Connection
from tests.integration.flows.conftest import Service, running
from tests.stripe_events import MONTH, START, event, invoice, metadata, purchase, session, subscription


async def test_a_paid_subscription_checkout_gives_its_plan(service: Service) -> None:
    assert await service.outcomes(*purchase("ann")) == ["applied"] * 4
    answer = await service.read("ann")
    assert answer.plan_keys == ("pro",)
    assert answer.revision == 1
    assert await service.value("ann", "projects") == 50


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
async def test_any_order_of_one_purchase_ends_the_same(service: Service, order: tuple[int, ...]) -> None:
    """Also: created and updated of the same second; a subscription does not stay incomplete."""
    events = purchase("ann")
    for index in order:
        await service.outcomes(events[index])
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_two_copies_in_one_batch_are_one_event_and_its_duplicate(service: Service) -> None:
    body = event("customer.subscription.created", subscription("ann"))
    assert await service.outcomes(body, body) == ["applied", "duplicate"]
    assert await service.outcomes(body) == ["duplicate"]


async def test_fifty_copies_at_once_have_one_effect(service: Service, other_service: Service) -> None:
    body = event("checkout.session.completed", session("ann", mode="payment", plan="export_pass"))
    services = itertools.cycle([service, other_service])
    outcomes = await asyncio.gather(*(next(services).outcomes(body) for _ in range(50)))
    assert sorted(itertools.chain(*outcomes)) == ["applied"] + ["duplicate"] * 49
    assert (await service.read("ann")).revision == 1


async def test_overlapping_batches_in_opposite_order_both_go_through(database_url: str) -> None:
    """Sorted locks: two processes with the same events in opposite order neither deadlock nor lose one."""
    names = [f"c{number:02}" for number in range(30)]
    events = list(itertools.chain(*(purchase(name) for name in names)))
    async with running(database_url) as one, running(database_url) as two:
        for start in range(0, len(events), 24):
            part = events[start : start + 24]
            await asyncio.gather(one.fulfill(part), two.fulfill(part[::-1]))
        for name in names:
            answer = await one.read(name)
            assert (answer.plan_keys, answer.revision) == (("pro",), answer.revision)


async def test_two_batches_that_share_a_customer_lose_nothing_of_each_other(database_url: str) -> None:
    """Locked and loaded in two statements: the second to get the lock sees what the first wrote."""
    async with running(database_url) as one, running(database_url) as two:
        for number in range(20):
            name = f"shared{number}"
            created, paid, updated, completed = purchase(name)
            await asyncio.gather(one.fulfill([created, completed]), two.fulfill([updated, paid]))
            answer = await one.read(name)
            assert answer.plan_keys == ("pro",)


async def test_who_is_locked_keeps_nobody_from_writing_what_refers_to_them(service: Service, database_url: str) -> None:
    """With the lock that is for a row's key, two batches that write about one customer would wait for each other."""
    await service.outcomes(*purchase("ann"))

    async def write_beside(connection: Connection) -> None:
        await customers.lock(connection, ["ann"])
        with psycopg.connect(database_url) as other:
            other.execute("SET lock_timeout = '2s'")
            other.execute(
                "INSERT INTO customer_facts (customer_id, change_time, revision, facts) VALUES ('ann', now(), 9, '{}')"
            )

    await service.database.run(write_beside)


@pytest.mark.parametrize("poison", ["pro\x00", "pro\ud800"], ids=["nul", "lone surrogate"])
async def test_what_the_database_refuses_is_quarantined_and_its_neighbours_are_applied(
    service: Service, database_url: str, poison: str
) -> None:
    bad = event("checkout.session.completed", session("eve", mode="payment", plan=poison), event_id="evt_bad")
    good = purchase("ann")
    assert await service.outcomes(*good[:2], bad, *good[2:]) == [
        "applied", "applied", "quarantined", "applied", "applied",
    ]  # fmt: skip
    assert (await service.read("ann")).plan_keys == ("pro",)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT event_key, payload, reason FROM quarantined_events").fetchall()
        events = connection.execute("SELECT count(*) FROM stripe_events WHERE event_id = 'evt_bad'").fetchone()
    assert rows == [("evt_bad", bad, "unwritable")]
    assert events == (0,)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'{"id": 3}',
        b'{"id": "evt_\\u0000", "type": "x", "created": 1}',
        event("invoice.paid", {"object": "invoice", "id": "in_1"}),
        event("customer.subscription.updated", subscription("eve", "a_status_of_next_year")),
        event("customer.subscription.updated", subscription("eve", items={"data": []})),
        event("checkout.session.completed", {"object": "payment_link", "id": "plink_1"}),
    ],
)
async def test_a_malformed_event_is_kept_as_raw_bytes_and_its_neighbours_are_unharmed(
    service: Service, database_url: str, body: bytes
) -> None:
    assert await service.outcomes(body, *purchase("ann")) == ["quarantined", *["applied"] * 4]
    assert await service.outcomes(body) == ["quarantined"]
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT payload, reason, attempts FROM quarantined_events").fetchall()
    assert rows == [(body, "malformed", 2)]


async def test_an_event_that_comes_again_after_the_cause_is_mended_leaves_the_quarantine(
    service: Service, database_url: str
) -> None:
    """As where reconciliation brings it: in other bytes, and by the release that understands them."""
    broken = event("invoice.paid", {"object": "invoice", "id": "in_1"}, event_id="evt_again")
    assert await service.outcomes(broken) == ["quarantined"]
    assert await service.outcomes(event("invoice.paid", invoice("ann"), event_id="evt_again")) == ["applied"]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM quarantined_events").fetchone() == (0,)


async def test_ignored_is_decided_by_the_type_alone(service: Service) -> None:
    unknown = event("payout.paid", {"object": "payout", "id": "po_1"})
    never_heard_of = event("customer.subscription.updated", subscription("nobody"))
    assert await service.outcomes(unknown, never_heard_of) == ["ignored", "applied"]
    assert await service.outcomes(unknown) == ["duplicate"]


async def test_what_an_account_of_somebody_else_tells_gives_nothing_whatever_its_metadata_claims(
    service: Service,
) -> None:
    """Whoever owns a connected account writes what he likes into it, our deployment and a customer of ours too. Nor is it looked into."""

    def of_connected_account(body: bytes) -> bytes:
        return json.dumps({**json.loads(body), "account": "acct_mallory"}).encode()

    bought = [of_connected_account(body) for body in purchase("ann")]
    unknown_shape = of_connected_account(event("customer.subscription.created", {"object": "subscription"}))
    unused = of_connected_account(event("account.updated", {"id": "acct_mallory", "object": "account"}))
    assert set(await service.outcomes(*bought, unknown_shape, unused)) == {"not_ours"}
    assert (await service.read("ann")).plan_keys == ("free",)
    own = [json.dumps({**json.loads(body), "account": None}).encode() for body in purchase("ben")]
    assert set(await service.outcomes(*own)) == {"applied"}


async def test_events_of_another_deployment_are_recorded_as_not_ours(service: Service) -> None:
    theirs = subscription("ann", metadata=metadata("ann", billing_deployment="staging"))
    assert await service.outcomes(event("customer.subscription.created", theirs)) == ["not_ours"]
    assert (await service.read("ann")).plan_keys == ("free",)


async def test_what_comes_before_its_customer_is_parked_and_counts_once_the_customer_is_known(service: Service) -> None:
    made_in_dashboard = event("customer.subscription.created", subscription("ann", metadata={}))
    paid = event("invoice.paid", invoice("ann", parent=None, subscription="sub_ann"))
    assert await service.outcomes(made_in_dashboard, paid) == ["parked", "parked"]
    assert (await service.read("ann")).plan_keys == ("free",)
    naming = event("checkout.session.expired", session("ann", status="expired", payment_status="unpaid"))
    assert await service.outcomes(naming) == ["applied"]
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_our_table_is_the_authority_over_a_binding(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    stolen = subscription("ann", metadata=metadata("eve"))
    await service.outcomes(event("customer.subscription.updated", stolen, created=START + 5))
    assert (await service.read("ann")).plan_keys == ("pro",)
    assert (await service.read("eve")).plan_keys == ("free",)


async def test_a_delayed_payment_gives_nothing_until_it_succeeds(service: Service) -> None:
    pass_ = session("ann", mode="payment", plan="export_pass", payment_status="unpaid")
    await service.outcomes(event("checkout.session.completed", pass_))
    answer = await service.read("ann")
    assert (answer.plan_keys, answer.sources[0].state) == (("free",), SourceState.PENDING_PAYMENT)
    paid = pass_ | {"payment_status": "paid"}
    await service.outcomes(event("checkout.session.async_payment_succeeded", paid, created=START + 30))
    assert await service.value("ann", "export") is True


async def test_a_delayed_payment_that_fails_gives_nothing_in_any_order(service: Service) -> None:
    pass_ = session("ann", mode="payment", plan="export_pass", payment_status="unpaid")
    completed = event("checkout.session.completed", pass_)
    failed = event("checkout.session.async_payment_failed", pass_, created=START + 30)
    await service.outcomes(failed)
    await service.outcomes(completed)
    answer = await service.read("ann")
    assert answer.plan_keys == ("free",)
    assert [source.type.value for source in answer.sources] == ["default_plan"]


async def test_a_subscription_that_is_deleted_ends_and_stays_ended(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    gone = subscription("ann", "canceled", ended_at=START + 40)
    late = subscription("ann", "active")
    await service.outcomes(event("customer.subscription.deleted", gone, created=START + 40))
    await service.outcomes(event("customer.subscription.updated", late, created=START + 50))
    assert (await service.read("ann")).plan_keys == ("free",)


async def test_a_failed_renewal_starts_the_grace_once(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    due = START + MONTH
    past_due = subscription("ann", "past_due", latest_invoice="in_2")
    second = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle", created=due)
    await service.outcomes(
        event("invoice.payment_failed", second, created=due + 100),
        event("customer.subscription.updated", past_due, created=due + 100),
    )
    before = (await service.read("ann")).sources[0]
    await service.outcomes(event("invoice.payment_failed", second, created=due + 4 * 86_400))
    after = (await service.read("ann")).sources[0]
    assert before.state is SourceState.GRACE
    assert before.end_time == after.end_time


async def test_a_price_of_no_plan_stays_unresolved_and_takes_nothing_away(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    other = subscription("ann", lookup_key="somebody_elses", id="sub_other")
    other["items"]["data"][0]["id"] = "si_other"
    assert await service.outcomes(event("customer.subscription.created", other)) == ["applied"]
    answer = await service.read("ann")
    assert answer.plan_keys == ("pro",)
    assert SourceState.UNRESOLVED in {source.state for source in answer.sources}


async def test_the_revision_moves_only_when_something_given_changes(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    same = subscription("ann", "active")
    await service.outcomes(event("customer.subscription.updated", same, created=START + 9))
    assert (await service.read("ann")).revision == 1


async def test_a_caller_that_leaves_takes_no_neighbour_with_it(service: Service) -> None:
    first = asyncio.create_task(service.outcomes(purchase("ann")[2]))
    second = asyncio.create_task(service.outcomes(*purchase("bob")))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ["applied"] * 4
