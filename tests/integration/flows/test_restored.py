"""The database is that of a backup: what was made since is unknown here, and at Stripe. Reconciliation brings it back, and buying goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.errors import AlreadySubscribedError, CheckoutSessionNotFoundError, StripeUnavailableError
from billing_service.domain.subscription import Operation
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.get_checkout_session import GetCheckoutSession
from billing_service.flows.reconcile import Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.request_budget import RequestBudget
from billing_service.storage.database import Database
from billing_service.storage.reconcile_runs import RunState
from tests.integration.flows.subscriber import Clock, Subscriber, subscriber
from tests.integration.flows.test_refresh import PLENTY
from tests.stripe_proxy import deny, lose_answer, lose_request

TABLES = """
    SELECT quote_ident(relname) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
"""


class Backup:
    """What a database held when it was made."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        with self._connected() as connection:
            connection.execute("CREATE SCHEMA backup")
            self._tables = [row[0] for row in connection.execute(TABLES)]
            for table in self._tables:
                connection.execute(f"CREATE TABLE backup.{table} AS SELECT * FROM {table}")  # noqa: S608 - tables of ours

    def restore(self) -> None:
        """Have the database hold that again."""
        with self._connected() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(f"TRUNCATE {', '.join(self._tables)}")
            for table in self._tables:
                connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM backup.{table}")  # noqa: S608

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement and give its rows."""
        with self._connected() as connection:
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._url)


class Process:
    """One process's flows, with those that repair."""

    def __init__(self, flows: Subscriber, database: Database, fulfill: Fulfill) -> None:
        self.flows = flows
        self.database = database
        self.fulfill = fulfill
        budget = RequestBudget(database, PLENTY)
        later = lambda: flows.clock() + timedelta(seconds=2)  # noqa: E731 - the window ends before the second in which a run begins
        listing = flows.reads._stripe.listing
        self.events = Reconcile(database, listing, fulfill, budget, later)
        self.objects = ReconcileObjects(database, listing, flows.reads, budget, "default", later)

    async def hear(self) -> None:
        """Have every webhook come that Stripe has sent so far."""
        found = (await self.flows.at_stripe("events?limit=100"))["data"]
        await self.fulfill([json.dumps(one).encode() for one in found[::-1]])

    async def everything(self) -> None:
        """Reconcile as docs/operations.md has it."""
        for run in (await self.events.events(0), await self.objects.subscriptions(), await self.objects.purchases()):
            assert run.state is RunState.COMPLETE

    async def customers(self) -> list[str]:
        """Give every customer that there is at Stripe."""
        return [one["id"] for one in (await self.flows.at_stripe("customers"))["data"]]


@pytest.fixture
async def process(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Process]:
    async with AsyncExitStack() as stack:
        flows = await stack.enter_async_context(subscriber(database_url, stripe_url, clock))
        database = Database(database_url)
        stack.push_async_callback(database.close)
        fulfill = Fulfill(database, flows.prices, "default", clock)
        writer = asyncio.create_task(fulfill.run())
        stack.push_async_callback(lambda: writer)
        stack.push_async_callback(fulfill.close)
        yield Process(flows, database, fulfill)


@pytest.fixture
def backup(database_url: str) -> Backup:
    return Backup(database_url)


def request(plan_key: str, request_id: str = "after") -> CheckoutRequest:
    return CheckoutRequest(
        request_id=request_id, customer_id="ann", plan_key=plan_key, price_key=None, quantity=1,
        success_url="https://shop.example/done", cancel_url="https://shop.example/plans",
        customer_email=None, allow_promotion_codes=False, metadata={},
    )  # fmt: skip


async def test_who_became_known_to_stripe_after_the_backup_pays_as_the_same_stripe_customer(
    process: Process, backup: Backup
) -> None:
    """Only Stripe's metadata tells of them: their subscription stays theirs, and nothing is bought as somebody else."""
    await process.flows.subscribed()
    backup.restore()
    assert backup.sql("SELECT count(*) FROM customers") == [(0,)]
    await process.everything()
    assert (await process.flows.answer()).plan_keys == ("pro",)
    with pytest.raises(AlreadySubscribedError):
        await process.flows.buy(request("pro", "again"))
    session_id = (await process.flows.buy(request("export_pass"))).session.checkout_session_id
    (stripe_id,) = await process.customers()
    assert (await process.flows.at_stripe(f"checkout/sessions/{session_id}"))["customer"] == stripe_id


async def test_all_who_buy_at_once_after_a_restore_pay_as_the_one_that_there_is(
    process: Process, backup: Backup
) -> None:
    await process.flows.subscribed()
    backup.restore()
    await process.everything()
    made = await asyncio.gather(*(process.flows.buy(request("export_pass", f"after-{n}")) for n in range(8)))
    assert len({one.session.checkout_session_id for one in made}) == 1
    assert len(await process.customers()) == 1


@pytest.mark.parametrize("gone", ["deleted", "denied", "known"])
async def test_who_is_bound_to_a_stripe_customer_that_is_gone_has_a_new_one_made(
    process: Process, backup: Backup, gone: str
) -> None:
    await process.flows.subscribed()
    backup.restore()
    await process.everything()
    (stripe_id,) = await process.customers()
    await process.flows.at_stripe(f"customers/{stripe_id}", "DELETE")
    if gone == "known":
        await process.everything()
    elif gone == "denied":
        process.flows.proxy.next("GET", f"/v1/customers/{stripe_id}", deny)
    session_id = (await process.flows.buy(request("export_pass"))).session.checkout_session_id
    assert (await process.flows.at_stripe(f"checkout/sessions/{session_id}"))["customer"] != stripe_id


async def test_while_stripe_does_not_say_whether_they_exist_nobody_is_made_twice(
    process: Process, backup: Backup
) -> None:
    await process.flows.subscribed()
    backup.restore()
    await process.everything()
    (stripe_id,) = await process.customers()
    process.flows.proxy.next("GET", f"/v1/customers/{stripe_id}", lose_request)
    with pytest.raises(StripeUnavailableError):
        await process.flows.buy(request("export_pass"))
    await process.flows.buy(request("export_pass"))
    assert await process.customers() == [stripe_id]


async def test_a_change_that_is_asked_for_again_after_a_restore_is_not_made_again(
    process: Process, database_url: str
) -> None:
    """Its request id is new again; what there is at Stripe says that it was made."""
    ann = process.flows
    subscription_id = await ann.subscribed()
    backup = Backup(database_url)

    async def waiting() -> None:
        await ann.update(subscription_id, at_period_end=True, plan_key="team", quantity=2)

    async def cancelled() -> None:
        await ann.asked(subscription_id, Operation.CANCEL_AT_PERIOD_END, "cancel-1")

    async def resumed() -> None:
        await ann.asked(subscription_id, Operation.RESUME, "resume-1")

    async def changed() -> None:
        await ann.update(subscription_id, plan_key="team", quantity=2)

    async def made() -> list[Any]:
        subscription = await ann.subscription(subscription_id)
        invoices = (await ann.at_stripe("invoices"))["data"]
        return [*(subscription[key] for key in ("items", "schedule", "cancel_at", "latest_invoice")), len(invoices)]

    for change in (waiting, cancelled, resumed, changed):
        await change()
        before = await made()
        backup.restore()
        await process.everything()
        await change()
        assert await made() == before
    assert (await ann.answer()).plan_keys == ("team",)


async def test_a_page_that_was_made_after_the_backup_is_paid_like_any_other_and_not_found_by_its_id(
    process: Process, backup: Backup
) -> None:
    session_id = (await process.flows.buy(request("pro"))).session.checkout_session_id
    backup.restore()
    await process.flows.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await process.hear()
    assert (await process.flows.answer()).plan_keys == ("pro",)
    with pytest.raises(CheckoutSessionNotFoundError):
        await GetCheckoutSession(process.database, process.flows.clock)(session_id)


async def test_what_is_bought_again_before_it_is_reconciled_is_told_to_a_person(
    process: Process, backup: Backup
) -> None:
    """Nobody here knows of the first purchase then: as docs/operations.md has it, reconcile before the services are started."""
    first = await process.flows.subscribed()
    backup.restore()
    session_id = (await process.flows.buy(request("pro"))).session.checkout_session_id
    await process.flows.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await process.everything()
    ((detail,),) = backup.sql("SELECT detail FROM findings WHERE kind = 'bought_twice'")
    assert first in detail["stripe_subscription_ids"]
    assert len(await process.customers()) == 2


async def test_who_was_being_made_known_to_stripe_at_the_backup_is_not_made_twice(
    process: Process, database_url: str
) -> None:
    """Stripe keeps the key for a day; whom it made by it is bound by what was bought since."""
    process.flows.proxy.next("POST", "/v1/customers", lose_answer)
    with pytest.raises(StripeUnavailableError):
        await process.flows.subscribed()
    backup = Backup(database_url)
    await process.flows.subscribed()
    backup.restore()
    await process.everything()
    process.flows.clock.ahead += timedelta(hours=25)
    await process.flows.buy(request("export_pass"))
    assert len(await process.customers()) == 1
