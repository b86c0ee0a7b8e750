"""Exactly one session per intent, whatever is lost, repeated or crashes; one open page per customer and plan group."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from billing_service.deadline import deadline_after
from billing_service.domain.catalog import Catalog, Policy
from billing_service.domain.checkout import CheckoutRequest, CheckoutState
from billing_service.domain.errors import (
    AlreadySubscribedError,
    CheckoutSupersededError,
    InvalidFieldsError,
    PlanNotForSaleError,
    PlanNotFoundError,
    PriceNotAvailableError,
    PriceNotFoundError,
    RequestIdReusedError,
    StripeUnavailableError,
)
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.get_checkout_session import GetCheckoutSession
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.reads import Reads
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from sandbox.stripe.app import StandInStripe
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import running
from tests.stripe_events import purchase
from tests.stripe_proxy import StripeProxy, deny, fail, held, lose_answer, lose_request, proxied, refuse

KEY = "sk_test_flows"
SESSIONS = ("POST", "/v1/checkout/sessions")
CUSTOMERS = ("POST", "/v1/customers")
REQUEST = CheckoutRequest(
    request_id="request-1",
    customer_id="ann",
    plan_key="pro",
    price_key=None,
    quantity=1,
    success_url="https://shop.example/done?session={CHECKOUT_SESSION_ID}",
    cancel_url="https://shop.example/plans",
    customer_email="ann@example.com",
    allow_promotion_codes=False,
    metadata={"campaign": "spring"},
)


class Clock:
    """The time that the flows and the stand-in share, ahead of the real one by what the test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Give the time."""
        return datetime.now(UTC) + self.ahead


class Shop:
    """One process's flows, the Stripe they talk to, and the proxy in between."""

    def __init__(
        self, database: Database, stripe: StripeApi, proxy: StripeProxy, stripe_url: str, clock: Clock
    ) -> None:
        self.clock = clock
        self.database = database
        self.proxy = proxy
        self.stripe = stripe
        self.stripe_url = stripe_url
        prices = Prices(database, stripe, CATALOG)
        self.prices = prices
        self.reads = reads = Reads(database, stripe, prices, "default", clock)
        self.create = CreateCheckoutSession(database, stripe, prices, reads, "default", clock)
        self.get = GetCheckoutSession(database, clock)
        self.read = ReadEntitlements(database, prices, clock)

    async def control(self, path: str, **body: Any) -> None:
        """Have the stand-in do what happens at Stripe."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.stripe_url}/_control/{path}", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def sessions(self) -> list[dict[str, Any]]:
        """Give every session that exists at Stripe."""
        found: list[dict[str, Any]] = (await self.at_stripe("checkout/sessions"))["data"]
        return found

    async def at_stripe(self, path: str, method: str = "GET", **form: str) -> dict[str, Any]:
        """Ask Stripe itself, past the proxy."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, f"{self.stripe_url}/v1/{path}", data=form or None) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            assert answer.status == 200, found
            return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stripe_url(clock: Clock) -> AsyncIterator[str]:
    stand_in = StandInStripe(KEY, now=lambda: clock().timestamp())
    url = await stand_in.start()
    stand_in.seed(tomllib.loads((Path(__file__).parents[3] / "catalog.toml").read_text()))
    yield url
    await stand_in.stop()


@asynccontextmanager
async def opened(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(stripe_url))
        database = Database(database_url)
        stack.push_async_callback(database.close)
        stripe = await stack.enter_async_context(StripeApi(KEY, proxy.url))
        yield Shop(database, stripe, proxy, stripe_url, clock)


@pytest.fixture
async def shop(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Shop]:
    async with opened(database_url, stripe_url, clock) as one:
        yield one


async def test_a_session_carries_our_ids_and_the_catalogs_price(shop: Shop) -> None:
    created = await shop.create(REQUEST)
    assert (created.reused, created.session.state) == (False, CheckoutState.OPEN)
    (made,) = await shop.sessions()
    assert (made["id"], made["url"]) == (created.session.checkout_session_id, created.session.url)
    assert made["client_reference_id"] == "ann"
    assert made["metadata"].items() >= {
        "billing_customer_id": "ann", "billing_deployment": "default", "billing_plan_key": "pro",
        "billing_price_key": "monthly", "billing_quantity": "1", "campaign": "spring",
    }.items()  # fmt: skip
    assert made["mode"] == "subscription"


async def test_the_same_request_again_gets_the_stored_answer(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    second = await shop.create(REQUEST)
    assert first == second
    assert shop.proxy.calls[SESSIONS] == 1


async def test_the_same_request_id_with_other_parameters_is_refused(shop: Shop) -> None:
    await shop.create(REQUEST)
    for other in (replace(REQUEST, plan_key="team"), replace(REQUEST, customer_id="bob")):
        with pytest.raises(RequestIdReusedError):
            await shop.create(other)
    assert len(await shop.sessions()) == 1


async def test_another_request_for_the_same_thing_gets_the_open_session(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    second = await shop.create(replace(REQUEST, request_id="request-2"))
    assert (second.reused, second.session) == (True, first.session)
    assert await shop.create(replace(REQUEST, request_id="request-2")) == second


async def test_a_page_with_little_life_left_is_replaced(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    shop.clock.ahead = timedelta(hours=23, minutes=30)
    second = await shop.create(replace(REQUEST, request_id="request-2"))
    states = {made["id"]: made["status"] for made in await shop.sessions()}
    assert states == {first.session.checkout_session_id: "expired", second.session.checkout_session_id: "open"}


async def test_another_plan_of_the_group_expires_the_open_session_first(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    second = await shop.create(replace(REQUEST, request_id="request-2", plan_key="team", quantity=3))
    states = {made["id"]: made["status"] for made in await shop.sessions()}
    assert states == {first.session.checkout_session_id: "expired", second.session.checkout_session_id: "open"}
    assert (await shop.get(first.session.checkout_session_id)).state is CheckoutState.EXPIRED
    assert (await shop.create(REQUEST)).session.state is CheckoutState.EXPIRED


async def test_an_add_on_leaves_the_open_session_of_a_plan_alone(shop: Shop) -> None:
    await shop.create(REQUEST)
    await shop.create(replace(REQUEST, request_id="request-2", plan_key="export_pass"))
    assert [made["status"] for made in await shop.sessions()] == ["open", "open"]


def selling(shop: Shop, catalog: Catalog) -> CreateCheckoutSession:
    """Give what a process with another catalog would sell."""
    prices = Prices(shop.database, shop.stripe, catalog)
    return CreateCheckoutSession(shop.database, shop.stripe, prices, shop.reads, "default", shop.clock)


def grouped(**groups: str | None) -> Catalog:
    """Give the catalog with some plans (plan key -> group) in other groups."""
    plans = {key: replace(CATALOG.plans[key], group=group) for key, group in groups.items()}
    return replace(CATALOG, plans={**CATALOG.plans, **plans})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CATALOG, grouped(pro="plans", team="plans")),
        (grouped(team=None), CATALOG),
        (CATALOG, grouped(team=None)),
    ],
    ids=["renamed", "an add-on joins", "a plan leaves"],
)
async def test_a_page_that_was_made_before_the_catalog_regrouped_its_plans_is_expired_too(
    shop: Shop, before: Catalog, after: Catalog
) -> None:
    """The database's own rule goes by the group's name then; a plan that has just left its group counts as of it once more."""
    team = replace(REQUEST, plan_key="team")
    first = await selling(shop, before)(team)
    second = await selling(shop, after)(replace(REQUEST, request_id="request-2"))
    states = {made["id"]: made["status"] for made in await shop.sessions()}
    assert states == {first.session.checkout_session_id: "expired", second.session.checkout_session_id: "open"}


@pytest.mark.parametrize("paid", [False, True])
async def test_two_open_pages_of_plans_that_are_one_group_now_are_not_given_again(shop: Shop, paid: bool) -> None:
    apart = selling(shop, grouped(team=None))
    await apart(REQUEST)
    other = (await apart(replace(REQUEST, request_id="request-2", plan_key="team"))).session.checkout_session_id
    again = replace(REQUEST, request_id="request-3")
    if paid:  # and no webhook came
        await shop.control(f"checkout/sessions/{other}/complete", outcome="paid")
        with pytest.raises(AlreadySubscribedError):
            await shop.create(again)
        assert "open" not in [made["status"] for made in await shop.sessions()]
    else:
        third = await shop.create(again)
        assert not third.reused
        open_ones = [made["id"] for made in await shop.sessions() if made["status"] == "open"]
        assert open_ones == [third.session.checkout_session_id]


async def test_a_session_that_was_just_paid_is_folded_and_the_next_one_refused(shop: Shop) -> None:
    """No webhook came: what our own verified read says counts."""
    first = await shop.create(REQUEST)
    await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    with pytest.raises(AlreadySubscribedError):
        await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert (await shop.read("ann")).plan_keys == ("pro",)
    assert (await shop.get(first.session.checkout_session_id)).state is CheckoutState.COMPLETE
    with pytest.raises(AlreadySubscribedError):
        await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert len(await shop.sessions()) == 1


async def test_a_retry_after_the_old_page_was_paid_meanwhile_is_refused(shop: Shop) -> None:
    """Superseding failed half-way, the old page was paid and its webhooks came: no second page may be made."""
    first = await shop.create(REQUEST)
    session_id = first.session.checkout_session_id
    other = replace(REQUEST, request_id="request-2", plan_key="team")
    shop.proxy.next("POST", f"/v1/checkout/sessions/{session_id}/expire", fail)
    with pytest.raises(StripeUnavailableError):
        await shop.create(other)
    await shop.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await shop.reads.checkout_session(session_id)
    with pytest.raises(AlreadySubscribedError):
        await shop.create(other)
    assert len(await shop.sessions()) == 1


async def test_a_page_that_stripe_would_not_expire_blocks_the_next_one(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    path = f"/v1/checkout/sessions/{first.session.checkout_session_id}/expire"
    shop.proxy.next("POST", path, refuse)
    other = replace(REQUEST, request_id="request-2", plan_key="team")
    with pytest.raises(StripeUnavailableError):
        await shop.create(other)
    assert [made["status"] for made in await shop.sessions()] == ["open"]
    assert (await shop.create(other)).session.plan_key == "team"


async def test_a_purchase_whose_subscription_was_not_heard_of_counts(shop: Shop, database_url: str) -> None:
    """The completed session came, the subscription's event did not: it is read before another page is made."""
    first = await shop.create(REQUEST)
    session_id = first.session.checkout_session_id
    await shop.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await shop.reads.checkout_session(session_id)
    with psycopg.connect(database_url) as connection:  # as if only the session's event had arrived
        connection.execute("DELETE FROM stripe_objects WHERE kind <> 'checkout.session'")
        connection.execute("UPDATE customers SET facts = '{}'")
    with pytest.raises(AlreadySubscribedError):
        await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))


async def test_a_stored_answer_outlives_its_plan(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    index = shop.prices.index
    shop.prices.index = replace(index, catalog=replace(index.catalog, plans={}))
    assert await shop.create(REQUEST) == first


async def test_a_retry_asks_for_the_price_of_then_though_the_catalogs_default_is_another_now(shop: Shop) -> None:
    shop.proxy.next(*SESSIONS, lose_answer)
    with pytest.raises(StripeUnavailableError):
        await shop.create(REQUEST)
    pro = CATALOG.plans["pro"]
    pro = replace(pro, prices=pro.prices[::-1])
    later = selling(shop, replace(CATALOG, plans={**CATALOG.plans, "pro": pro}))
    with pytest.raises(RequestIdReusedError):
        await later(replace(REQUEST, price_key="yearly"))
    assert (await later(REQUEST)).session.price_key == "monthly"
    assert len(await shop.sessions()) == 1


@pytest.mark.parametrize("fault", [lose_answer, lose_request], ids=["answer lost", "request lost"])
@pytest.mark.parametrize("call", [SESSIONS, CUSTOMERS], ids=["session", "customer"])
async def test_after_no_answer_the_same_key_makes_exactly_one(shop: Shop, call: tuple[str, str], fault: Any) -> None:
    shop.proxy.next(*call, fault)
    with pytest.raises(StripeUnavailableError):
        await shop.create(REQUEST)
    created = await shop.create(REQUEST)
    assert [made["id"] for made in await shop.sessions()] == [created.session.checkout_session_id]
    assert len({made["customer"] for made in await shop.sessions()}) == 1


async def test_another_request_for_the_same_thing_resumes_what_was_left_unfinished(shop: Shop) -> None:
    shop.proxy.next(*SESSIONS, lose_answer)
    with pytest.raises(StripeUnavailableError):
        await shop.create(REQUEST)
    created = await shop.create(replace(REQUEST, request_id="request-2"))
    assert [made["id"] for made in await shop.sessions()] == [created.session.checkout_session_id]


async def test_a_definite_error_takes_the_next_attempt_since_stripe_would_replay_it(shop: Shop) -> None:
    shop.proxy.next(*SESSIONS, fail)
    with pytest.raises(StripeUnavailableError):
        await shop.create(REQUEST)
    assert (await shop.create(REQUEST)).session.state is CheckoutState.OPEN


async def test_fifty_calls_at_once_make_one_customer_and_one_session(shop: Shop, database_url: str) -> None:
    requests = [replace(REQUEST, request_id=f"request-{number % 5}") for number in range(50)]
    created = await asyncio.gather(*(shop.create(request) for request in requests))
    assert len({one.session.checkout_session_id for one in created}) == 1
    assert len(await shop.sessions()) == 1
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM stripe_customers").fetchone() == (1,)


async def test_a_stripe_that_answers_slowly_holds_up_neither_webhooks_nor_reads_of_the_same_customer(
    shop: Shop, database_url: str
) -> None:
    """No call to Stripe is made inside a transaction or under a lock; who goes away and comes again gets the one session."""
    await shop.control("faults", api={"slow_s": 60})
    asking = asyncio.create_task(shop.create(REQUEST))
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while not (await (await session.get(f"{shop.stripe_url}/_control/faults")).json())["counts"]:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    async with running(database_url) as service:
        assert await service.outcomes(*purchase("ann")) == ["applied"] * 4
        assert (await service.read("ann")).plan_keys == ("pro",)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await shop.control("faults")
    other = replace(REQUEST, request_id="request-2", plan_key="export_pass")
    assert (await shop.create(other)).session.state is CheckoutState.OPEN
    assert len(await shop.sessions()) == 1


async def test_an_intent_that_is_superseded_meanwhile_expires_the_session_it_just_made(shop: Shop) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()
    shop.proxy.next(*SESSIONS, held(arrived, go))
    slow = asyncio.create_task(shop.create(REQUEST))
    await arrived.wait()
    quick = await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))
    go.set()
    with pytest.raises(CheckoutSupersededError):
        await slow
    states = {made["id"]: made["status"] for made in await shop.sessions()}
    assert states.pop(quick.session.checkout_session_id) == "open"
    assert list(states.values()) == ["expired"]


@pytest.mark.parametrize("call", [SESSIONS, CUSTOMERS], ids=["session", "customer"])
async def test_a_process_that_dies_between_the_phases_is_resumed_by_another(
    database_url: str, stripe_url: str, call: tuple[str, str]
) -> None:
    async with (
        opened(database_url, stripe_url, Clock()) as dying,
        opened(database_url, stripe_url, Clock()) as next_one,
    ):
        arrived = asyncio.Event()
        dying.proxy.next(*call, held(arrived, asyncio.Event()))
        dead = asyncio.create_task(dying.create(REQUEST))
        await arrived.wait()
        dead.cancel()
        await asyncio.wait({dead})
        created = await next_one.create(REQUEST)
        assert [made["id"] for made in await next_one.sessions()] == [created.session.checkout_session_id]


async def test_an_unfinished_intent_older_than_a_key_lives_is_abandoned(shop: Shop, database_url: str) -> None:
    shop.proxy.next(*SESSIONS, lose_request)
    with pytest.raises(StripeUnavailableError):
        await shop.create(REQUEST)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE checkout_intents SET create_time = create_time - interval '23 hours 1 minute'")
    created = await shop.create(REQUEST)
    assert created.session.state is CheckoutState.OPEN
    with psycopg.connect(database_url) as connection:
        states = connection.execute("SELECT state FROM checkout_intents ORDER BY create_time").fetchall()
    assert states == [("abandoned",), ("open",)]


def with_trials(shop: Shop, *, one_per_customer: bool) -> CreateCheckoutSession:
    """Sell two plans of different groups, each with a trial of fourteen days."""
    policy = Policy(trial=timedelta(days=14), one_trial_per_customer=one_per_customer)
    plans = {key: replace(CATALOG.plans[key], group=key, policy=policy) for key in ("pro", "team")}
    return selling(shop, replace(CATALOG, plans={**CATALOG.plans, **plans}))


def trials(database_url: str) -> dict[str, str | None]:
    """Give the days of trial that each plan's page was made with."""
    with psycopg.connect(database_url) as connection:
        return dict(
            connection.execute(
                "SELECT plan_key, request_body #>> '{subscription_data,trial_period_days}' FROM checkout_intents"
            ).fetchall()
        )


@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize("one_per_customer", [False, True])
async def test_one_trial_per_customer_is_the_plans_policy_though_two_pages_are_open_or_nobody_told_us(
    shop: Shop, database_url: str, paid: bool, one_per_customer: bool
) -> None:
    """Neither page was heard of as a subscription yet: what was offered counts, as long as it can be taken up."""
    create = with_trials(shop, one_per_customer=one_per_customer)
    first = await create(REQUEST)
    if paid:
        await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": None if one_per_customer else "14"}


async def test_a_trial_on_a_page_that_nobody_can_pay_any_more_is_offered_again(
    shop: Shop, clock: Clock, database_url: str
) -> None:
    create = with_trials(shop, one_per_customer=True)
    await create(REQUEST)
    clock.ahead = timedelta(hours=25)
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": "14"}


async def test_a_page_that_was_paid_in_its_last_minute_was_the_one_trial_though_nobody_told_us(
    shop: Shop, clock: Clock, database_url: str
) -> None:
    """Its time is over by our clock, which says nothing about what became of it."""
    create = with_trials(shop, one_per_customer=True)
    first = await create(REQUEST)
    await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    clock.ahead = timedelta(hours=24)
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": None}


@pytest.mark.parametrize("hours", [0, 25])
async def test_a_trial_on_a_page_that_could_not_be_expired_counts_in_another_group_until_its_time_is_over(
    shop: Shop, clock: Clock, database_url: str, hours: int
) -> None:
    trial = with_trials(shop, one_per_customer=True)
    first = await trial(REQUEST)
    shop.proxy.next("POST", f"/v1/checkout/sessions/{first.session.checkout_session_id}/expire", lose_request)
    with pytest.raises(StripeUnavailableError):  # without a trial itself, so that only the page at Stripe has one
        await selling(shop, grouped(pro="pro"))(replace(REQUEST, request_id="request-2", price_key="yearly"))
    clock.ahead = timedelta(hours=hours)
    await trial(replace(REQUEST, request_id="request-3", plan_key="team"))
    assert trials(database_url)["team"] == ("14" if hours else None)


async def test_a_page_with_a_trial_that_stripe_does_not_know_does_not_count(
    shop: Shop, clock: Clock, database_url: str
) -> None:
    create = with_trials(shop, one_per_customer=True)
    await create(REQUEST)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE checkout_intents SET checkout_session_id = 'cs_test_of_another_account'")
    clock.ahead = timedelta(hours=25)
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": "14"}


async def test_a_stripe_customer_that_was_deleted_behind_our_back_is_replaced(shop: Shop, database_url: str) -> None:
    first = await shop.create(REQUEST)
    (made,) = await shop.sessions()
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.delete(f"{shop.proxy.url}/v1/customers/{made['customer']}") as answer,
    ):
        assert answer.status == 200
    second = await shop.create(replace(REQUEST, request_id="request-2", plan_key="export_pass"))
    assert second.session.checkout_session_id != first.session.checkout_session_id
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM stripe_customers").fetchone() == (2,)


async def hear(shop: Shop, *types: str) -> None:
    """Have the webhooks of these types come, of all that Stripe has published; all where none is named."""
    fulfill = Fulfill(shop.database, shop.prices, "default", shop.clock)
    writer = asyncio.create_task(fulfill.run())
    try:
        found = (await shop.at_stripe("events?limit=100"))["data"]
        await fulfill([json.dumps(one).encode() for one in found[::-1] if not types or one["type"] in types])
    finally:
        await fulfill.close()
        await writer


@pytest.mark.parametrize("heard", [True, False])
async def test_an_open_page_of_a_deleted_stripe_customer_is_replaced_by_one_that_can_be_paid(
    shop: Shop, heard: bool
) -> None:
    first = await shop.create(REQUEST)
    (made,) = await shop.sessions()
    await shop.at_stripe(f"customers/{made['customer']}", "DELETE")
    if heard:
        await hear(shop, "customer.deleted")
        shop.proxy.next("GET", f"/v1/customers/{made['customer']}", lose_request)
    second = await shop.create(replace(REQUEST, request_id="request-2"))
    states = {made["id"]: made["status"] for made in await shop.sessions()}
    assert states == {first.session.checkout_session_id: "expired", second.session.checkout_session_id: "open"}
    await shop.control(f"checkout/sessions/{second.session.checkout_session_id}/complete", outcome="paid")
    await shop.reads.checkout_session(second.session.checkout_session_id)
    assert (await shop.read("ann")).plan_keys == ("pro",)


async def test_who_was_deleted_at_stripe_buys_anew_though_nobody_told_us_that_the_subscription_ended_with_it(
    shop: Shop,
) -> None:
    first = await shop.create(REQUEST)
    await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    await shop.reads.checkout_session(first.session.checkout_session_id)
    (made,) = await shop.sessions()
    await shop.at_stripe(f"customers/{made['customer']}", "DELETE")
    await hear(shop, "customer.deleted")
    assert (await shop.create(replace(REQUEST, request_id="request-2"))).session.state is CheckoutState.OPEN


@pytest.mark.parametrize("fault", [lose_request, held(asyncio.Event(), asyncio.Event())], ids=["lost", "hangs"])
async def test_an_open_page_is_given_again_while_stripe_is_away(shop: Shop, fault: Any) -> None:
    first = await shop.create(REQUEST)
    (made,) = await shop.sessions()
    shop.proxy.next("GET", f"/v1/customers/{made['customer']}", fault)
    with deadline_after(6):
        assert (await shop.create(replace(REQUEST, request_id="request-2"))).session == first.session


@pytest.mark.parametrize("denied", ["session", "subscription"])
async def test_a_purchase_that_stripe_denies_does_not_block_its_group(shop: Shop, denied: str) -> None:
    """A completed session names a subscription that nobody heard of, and Stripe has no such object."""
    first = await shop.create(REQUEST)
    session_id = first.session.checkout_session_id
    await shop.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await hear(shop, "checkout.session.completed")
    (made,) = await shop.sessions()
    paths = {
        "session": f"/v1/checkout/sessions/{session_id}",
        "subscription": f"/v1/subscriptions/{made['subscription']}",
    }
    shop.proxy.next("GET", paths[denied], *[deny] * 2)  # before the intent is committed, and before the page is made
    created = await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert created.session.plan_key == "team"


async def test_a_session_that_stripe_does_not_know_does_not_block_its_group(shop: Shop, database_url: str) -> None:
    await shop.create(REQUEST)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE checkout_intents SET checkout_session_id = 'cs_test_of_another_account'")
    created = await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert created.session.plan_key == "team"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"plan_key": "prp"}, PlanNotFoundError),
        ({"plan_key": "free"}, PlanNotForSaleError),
        ({"price_key": "weekly"}, PriceNotFoundError),
        ({"quantity": 2}, InvalidFieldsError),
    ],
)
async def test_what_the_catalog_does_not_sell_is_refused_and_leaves_no_trace(
    shop: Shop, database_url: str, change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await shop.create(replace(REQUEST, **change))
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM customers").fetchone() == (0,)


async def test_a_price_that_stripe_does_not_have_is_not_available(database_url: str) -> None:
    stand_in = StandInStripe(KEY)
    url = await stand_in.start()
    try:
        async with opened(database_url, url, Clock()) as shop:
            with pytest.raises(PriceNotAvailableError) as raised:
                await shop.create(REQUEST)
            assert raised.value.metadata == {"lookup_key": "pro_monthly"}
    finally:
        await stand_in.stop()


@pytest.mark.parametrize("unfinished", [False, True])
async def test_a_price_that_rose_a_moment_ago_is_sold_at_once_at_the_new_one(shop: Shop, unfinished: bool) -> None:
    """Its old price is archived, and is what we remember."""
    await shop.prices.refresh()
    if unfinished:
        shop.proxy.next(*SESSIONS, lose_request)
        with pytest.raises(StripeUnavailableError):
            await shop.create(REQUEST)
    (old,) = (await shop.at_stripe("prices?lookup_keys[]=pro_monthly"))["data"]
    form = {
        "product": old["product"], "currency": "eur", "unit_amount": "2000", "recurring[interval]": "month",
        "lookup_key": "pro_monthly", "transfer_lookup_key": "true",
    }  # fmt: skip
    await shop.at_stripe("prices", "POST", **form)
    await shop.at_stripe(f"prices/{old['id']}", "POST", active="false")
    assert (await shop.create(REQUEST)).session.state is CheckoutState.OPEN
    assert [made["amount_total"] for made in await shop.sessions()] == [2000]


async def test_a_stripe_that_hangs_is_unavailable_within_the_callers_deadline(shop: Shop) -> None:
    await shop.create(replace(REQUEST, request_id="request-0", customer_id="bob"))  # prices are known
    shop.proxy.next(*SESSIONS, held(asyncio.Event(), asyncio.Event()))
    with deadline_after(0.5), pytest.raises(StripeUnavailableError):
        await shop.create(REQUEST)


async def test_a_page_is_not_open_beyond_its_time_though_nobody_told_us_that_it_expired(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    shop.clock.ahead = timedelta(hours=30)
    found = await shop.get(first.session.checkout_session_id)
    assert (found.state, found.url) == (CheckoutState.EXPIRED, None)
    assert (await shop.create(REQUEST)).session.url is None
