"""Read your purchase: the answer has what was just bought, whether the webhook is early, late or lost, and Stripe is asked once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from billing_service.deadline import deadline_after
from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.checkout_outcome import CheckoutOutcome
from billing_service.domain.entitlement_query import EntitlementsQuery
from billing_service.domain.errors import CheckoutSessionNotFoundError, OverloadedError
from billing_service.flows import await_checkout, read_entitlements
from billing_service.flows.asked_reads import AskedReads
from billing_service.flows.await_checkout import AwaitCheckout, Settled
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.read_past import ReadPast
from billing_service.storage.database import Database
from tests.integration.flows.subscriber import Clock, Subscriber, stand_in, subscriber
from tests.stripe_proxy import fail, held


@dataclass
class Process:
    """One process of the service: its flows, its way to Stripe, and a writer."""

    flows: Subscriber
    after: AwaitCheckout
    fulfill: Fulfill
    database: Database

    async def waited(self, session_id: str, customer_id: str = "ann", limit_s: float = 12) -> Settled:
        """Wait for a purchase as a call with this deadline does."""
        with deadline_after(limit_s):
            return await self.after(customer_id, session_id)

    async def open(self, plan_key: str = "pro") -> str:
        """Make a page for Ann, and give its session's id."""
        request = CheckoutRequest(
            request_id=f"buy-{plan_key}", customer_id="ann", plan_key=plan_key, price_key=None, quantity=1,
            success_url="https://shop.example/done", cancel_url="https://shop.example/plans",
            customer_email=None, allow_promotion_codes=False, metadata={},
        )  # fmt: skip
        return (await self.flows.buy(request)).session.checkout_session_id

    async def bought(self, plan_key: str = "pro", outcome: str = "paid") -> str:
        """Have Ann pay, of which nothing is heard yet."""
        session_id = await self.open(plan_key)
        await self.flows.control(f"checkout/sessions/{session_id}/complete", outcome=outcome)
        return session_id

    async def hear(self, *types: str) -> None:
        """Take Stripe's events of these types in, the oldest first; all where none is named."""
        found = (await self.flows.at_stripe("events?limit=100"))["data"]
        await self.fulfill([json.dumps(one).encode() for one in found[::-1] if not types or one["type"] in types])

    @property
    def asked(self) -> dict[str, int]:
        """How often Stripe was asked for a single object, by kind."""
        found: dict[str, int] = {}
        for (method, path), count in self.flows.proxy.calls.items():
            kind = path.removeprefix("/v1/").rpartition("/")[0]
            if method == "GET" and kind in {"checkout/sessions", "subscriptions"}:
                found[kind] = found.get(kind, 0) + count
        return found


@asynccontextmanager
async def running(database_url: str, stripe_url: str) -> AsyncIterator[Process]:
    clock = Clock()
    async with AsyncExitStack() as stack:
        flows = await stack.enter_async_context(subscriber(database_url, stripe_url, clock))
        database = Database(database_url)
        stack.push_async_callback(database.close)
        after = AwaitCheckout(database, flows.read, AskedReads(database, flows.reads, clock), clock)
        stack.push_async_callback(after.close)
        fulfill = Fulfill(database, flows.prices, "default", clock)
        writer = asyncio.create_task(fulfill.run())
        stack.push_async_callback(lambda: writer)
        stack.push_async_callback(fulfill.close)
        yield Process(flows, after, fulfill, database)


@pytest.fixture
async def stripe_url() -> AsyncIterator[str]:
    async with stand_in(Clock()) as url:
        yield url


@pytest.fixture
async def process(database_url: str, stripe_url: str) -> AsyncIterator[Process]:
    async with running(database_url, stripe_url) as one:
        yield one


async def bounded(wait: Awaitable[Any]) -> None:
    """Wait for what must come."""
    async with asyncio.timeout(20):
        await wait


async def looking(process: Process) -> None:
    """Wait until somebody waits for a change, so that he has looked and found nothing."""
    while not process.after._changes._waiting:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)


async def test_what_was_heard_already_is_answered_without_waiting_and_without_stripe(process: Process) -> None:
    session_id = await process.bought()
    await process.hear()
    settled = await process.waited(session_id)
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.ENTITLED, ("pro",))
    assert process.asked == {}


async def test_a_revision_that_is_not_there_yet_is_waited_for_after_a_purchase_as_without_one(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_entitlements, "REVISION_WAIT_S", 30.0)
    session_id = await process.bought()
    await process.hear()
    told = asyncio.Event()

    async def after(customer_id: str, session_id: str) -> Settled:
        settled = await process.after(customer_id, session_id)
        told.set()
        return settled

    past = ReadPast(process.database, process.flows.prices, process.flows.clock)
    get = GetEntitlements(process.flows.prices, process.flows.read, past, after)  # type: ignore[arg-type]  # it tells when
    before = (await process.flows.answer()).revision
    query = EntitlementsQuery("ann", after_checkout_session_id=session_id, min_revision=before + 1)
    waiting = asyncio.create_task(get(query))
    await bounded(told.wait())
    await process.bought("export_pass")
    await process.hear()
    answer, outcome = await waiting
    assert (answer.revision, outcome) == (before + 1, CheckoutOutcome.ENTITLED)
    assert set(answer.plan_keys) == {"pro", "export_pass"}


async def test_a_webhook_that_comes_meanwhile_ends_the_wait(process: Process) -> None:
    session_id = await process.open()
    waiting = asyncio.create_task(process.waited(session_id))
    await looking(process)
    await process.flows.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await process.hear()
    settled = await waiting
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.ENTITLED, ("pro",))


async def test_a_completed_session_is_not_entitled_before_its_subscription_was_folded(process: Process) -> None:
    """The session's event alone is there: the answer waits for the subscription, which is asked for."""
    session_id = await process.bought()
    await process.hear("checkout.session.completed")
    session = await process.flows.at_stripe(f"checkout/sessions/{session_id}")
    arrived, go = asyncio.Event(), asyncio.Event()
    process.flows.proxy.next("GET", f"/v1/subscriptions/{session['subscription']}", held(arrived, go))
    waiting = asyncio.create_task(process.waited(session_id))
    await bounded(arrived.wait())
    assert not waiting.done()
    go.set()
    settled = await waiting
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.ENTITLED, ("pro",))
    assert process.asked == {"subscriptions": 1}


async def test_stripe_is_asked_once_for_all_callers_of_all_processes_where_the_webhook_is_lost(
    process: Process, database_url: str, stripe_url: str
) -> None:
    session_id = await process.bought()
    async with running(database_url, stripe_url) as other:
        waits = [one.waited(session_id) for one in (process, other) for _ in range(20)]
        settled = await asyncio.gather(*waits)
        assert {one.outcome for one in settled} == {CheckoutOutcome.ENTITLED}
        assert {one.entitlements.plan_keys for one in settled} == {("pro",)}
        for kind in ("checkout/sessions", "subscriptions"):
            assert process.asked.get(kind, 0) + other.asked.get(kind, 0) == 1, kind


async def test_the_caller_who_was_first_takes_nobody_along(process: Process) -> None:
    session_id = await process.bought()
    arrived, go = asyncio.Event(), asyncio.Event()
    process.flows.proxy.next("GET", f"/v1/checkout/sessions/{session_id}", held(arrived, go))
    first = asyncio.create_task(process.waited(session_id))
    await bounded(arrived.wait())
    second = asyncio.create_task(process.waited(session_id))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert (await second).outcome is CheckoutOutcome.ENTITLED
    assert process.asked["checkout/sessions"] == 1


async def test_a_question_that_stripe_did_not_answer_is_asked_again(process: Process) -> None:
    session_id = await process.bought("export_pass")
    process.flows.proxy.next("GET", f"/v1/checkout/sessions/{session_id}", fail)
    settled = await process.waited(session_id)
    assert settled.outcome is CheckoutOutcome.ENTITLED
    assert "export_pass" in settled.entitlements.plan_keys
    assert process.asked["checkout/sessions"] == 2


@pytest.mark.parametrize("plan_key", ["pro", "export_pass"])
async def test_a_debit_that_is_on_its_way_is_pending_then_paid_or_failed(process: Process, plan_key: str) -> None:
    session_id = await process.bought(plan_key, outcome="processing")
    await process.hear()
    settled = await process.waited(session_id)
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.PENDING_PAYMENT, ("free",))
    await process.flows.control(f"checkout/sessions/{session_id}/settle", outcome="succeeded")
    await process.hear()
    assert (await process.waited(session_id)).outcome is CheckoutOutcome.ENTITLED


async def test_a_debit_that_failed_is_said_to_have_failed(process: Process) -> None:
    session_id = await process.bought("export_pass", outcome="processing")
    await process.flows.control(f"checkout/sessions/{session_id}/settle", outcome="failed")
    await process.hear()
    assert (await process.waited(session_id)).outcome is CheckoutOutcome.PAYMENT_FAILED


async def test_a_session_that_expired_unheard_is_expired(process: Process) -> None:
    session_id = await process.open()
    await process.flows.at_stripe(f"checkout/sessions/{session_id}/expire", "POST")
    settled = await process.waited(session_id)
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.EXPIRED, ("free",))


async def test_a_page_that_nobody_finished_is_still_open_by_stripes_own_word(process: Process) -> None:
    session_id = await process.open()
    settled = await process.waited(session_id, limit_s=2)
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.STILL_OPEN, ("free",))
    assert process.asked == {"checkout/sessions": 1}


async def test_what_stripe_does_not_say_either_is_unconfirmed_and_the_answer_comes_before_the_deadline(
    process: Process,
) -> None:
    """Nobody knows whether it was paid; the entitlements are answered all the same."""
    session_id = await process.bought()
    process.flows.proxy.next("GET", f"/v1/checkout/sessions/{session_id}", fail, fail, fail)
    settled = await process.waited(session_id, limit_s=2)
    assert (settled.outcome, settled.entitlements.plan_keys) == (CheckoutOutcome.UNCONFIRMED, ("free",))


async def test_what_was_bought_and_is_gone_again_is_not_entitled(process: Process) -> None:
    session_id = await process.bought()
    await process.hear()
    session = await process.flows.at_stripe(f"checkout/sessions/{session_id}")
    await process.flows.at_stripe(f"subscriptions/{session['subscription']}", "DELETE")
    await process.hear()
    assert (await process.waited(session_id)).outcome is CheckoutOutcome.NOT_ENTITLED


async def test_only_ones_own_sessions_are_waited_for(process: Process) -> None:
    session_id = await process.open()
    for customer_id, wanted in (("bob", session_id), ("ann", "cs_test_invented")):
        with pytest.raises(CheckoutSessionNotFoundError):
            await process.waited(wanted, customer_id)


async def test_no_more_wait_than_there_is_room_for(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(await_checkout, "MAX_WAITING", 1)
    session_id = await process.open()
    waiting = asyncio.create_task(process.waited(session_id))
    await looking(process)
    with pytest.raises(OverloadedError):
        await process.waited(session_id)
    await process.flows.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await process.hear()
    assert (await waiting).outcome is CheckoutOutcome.ENTITLED
    assert (await process.waited(session_id)).outcome is CheckoutOutcome.ENTITLED
