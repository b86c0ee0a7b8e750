"""Exactly one session per intent, whatever is lost, repeated or crashes; one open page per customer and plan group."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web

from billing_service.deadline import deadline_after
from billing_service.domain.access import SourceState
from billing_service.domain.catalog import Catalog
from billing_service.domain.checkout import CheckoutState
from billing_service.domain.errors import (
    AlreadySubscribedError,
    CheckoutSupersededError,
    InvalidFieldsError,
    PlanNotForSaleError,
    PlanNotFoundError,
    PriceNotAvailableError,
    PriceNotFoundError,
    RequestIdReusedError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing_service.domain.facts import OVER
from billing_service.domain.views import SubscriptionStatus
from sandbox.stripe.app import StandInStripe
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import running
from tests.integration.flows.shop import CUSTOMERS, REQUEST, SESSIONS, Shop, grouped, opened, selling
from tests.integration.flows.subscriber import KEY, Clock
from tests.stripe_events import event, purchase, subscription
from tests.stripe_proxy import Forward, fail, held, lose_answer, lose_request, refuse, unauthorized


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


@pytest.mark.parametrize("status", SubscriptionStatus)
async def test_whoever_holds_a_subscription_of_the_group_that_is_not_over_is_refused(
    shop: Shop, database_url: str, status: SubscriptionStatus
) -> None:
    """Overdue, paused, unpaid or awaiting its first payment, it can still become what is paid twice."""
    async with running(database_url) as service:
        await service.outcomes(event("customer.subscription.updated", subscription("ann", status)))
    if status in OVER:
        assert (await shop.create(REQUEST)).session.state is CheckoutState.OPEN
        return
    with pytest.raises(AlreadySubscribedError) as raised:
        await shop.create(REQUEST)
    assert raised.value.metadata == {"plan_group": "base", "plan_key": "pro"}
    assert await shop.sessions() == []


def forget_all_but_the_session(database_url: str) -> None:
    """Leave what there would be if only the session's event had arrived."""
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM stripe_objects WHERE kind <> 'checkout.session'")
        connection.execute("UPDATE customers SET facts = '{}'")


@pytest.mark.parametrize("whole", [True, False], ids=["all was heard", "the session alone was heard"])
async def test_a_retry_after_the_old_page_was_paid_meanwhile_is_refused(
    shop: Shop, database_url: str, whole: bool
) -> None:
    """Superseding failed half-way, the old page was paid and its webhooks came: no second page may be made."""
    first = await shop.create(REQUEST)
    session_id = first.session.checkout_session_id
    other = replace(REQUEST, request_id="request-2", plan_key="team")
    shop.proxy.next("POST", f"/v1/checkout/sessions/{session_id}/expire", fail)
    with pytest.raises(StripeUnavailableError):
        await shop.create(other)
    await shop.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
    await shop.reads.checkout_session(session_id)
    if not whole:
        forget_all_but_the_session(database_url)
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
    forget_all_but_the_session(database_url)
    with pytest.raises(AlreadySubscribedError):
        await shop.create(replace(REQUEST, request_id="request-2", plan_key="team"))


async def test_who_waits_for_a_debit_may_buy_again_and_the_caller_can_see_what_they_wait_for(shop: Shop) -> None:
    """The debit may fail, and a voucher may never be paid: they may want to pay by card. It is the caller's to say so, or to ask."""
    request = replace(REQUEST, plan_key="export_pass")
    first = (await shop.create(request)).session.checkout_session_id
    await shop.control(f"checkout/sessions/{first}/complete", outcome="processing")
    await shop.reads.checkout_session(first)
    assert (await shop.get(first)).state is CheckoutState.PROCESSING
    (source,) = (one for one in (await shop.read("ann")).sources if one.stripe_id)
    assert (source.state, source.plan_key) == (SourceState.PENDING_PAYMENT, "export_pass")
    again = await shop.create(replace(request, request_id="request-2"))
    assert (again.reused, again.session.checkout_session_id == first) == (False, False)


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


async def test_calls_of_two_processes_at_once_make_one_customer_and_one_session_at_stripe(
    database_url: str, stripe_url: str
) -> None:
    async with opened(database_url, stripe_url, Clock()) as one, opened(database_url, stripe_url, Clock()) as other:
        requests = [replace(REQUEST, request_id=f"request-{number}") for number in range(10)]
        created = await asyncio.gather(*(shop.create(request) for request in requests for shop in (one, other)))
        (made,) = await one.sessions()
        assert {answer.session.checkout_session_id for answer in created} == {made["id"]}
        assert [customer["id"] for customer in (await one.at_stripe("customers"))["data"]] == [made["customer"]]


async def test_a_call_that_fails_takes_nobody_the_stripe_customer_that_another_has_made_meanwhile(shop: Shop) -> None:
    """With the same key: one is answered, and bound, before the other hears of an error."""
    asked, made = asyncio.Event(), asyncio.Event()

    async def fail_late(request: web.Request, forward: Forward) -> web.StreamResponse:
        asked.set()
        await made.wait()
        return await fail(request, forward)

    shop.proxy.next(*CUSTOMERS, fail_late)
    failing = asyncio.create_task(shop.create(REQUEST))
    await asked.wait()
    page = await shop.create(replace(REQUEST, request_id="request-2"))
    made.set()
    assert (await failing).session == page.session
    await shop.create(replace(REQUEST, request_id="request-3", plan_key="export_pass"))
    assert len((await shop.at_stripe("customers"))["data"]) == 1


async def test_an_api_key_that_is_refused_for_a_moment_makes_no_second_stripe_customer(shop: Shop) -> None:
    """Stripe has made one, its answer was lost, and then it does not look at the idempotency key."""
    shop.proxy.next(*CUSTOMERS, lose_answer, unauthorized)
    for error in (StripeUnavailableError, StripeRefusedError):
        with pytest.raises(error):
            await shop.create(REQUEST)
    await shop.create(REQUEST)
    assert len((await shop.at_stripe("customers"))["data"]) == 1


async def test_what_was_parked_under_a_stripe_customer_counts_once_its_making_is_heard_of(
    shop: Shop, database_url: str
) -> None:
    """Somebody subscribes them in the dashboard before Stripe's answer has reached us; that tells nobody whose it is."""
    arrived, go = asyncio.Event(), asyncio.Event()
    shop.proxy.next(*CUSTOMERS, held(arrived, go))
    asking = asyncio.create_task(shop.create(replace(REQUEST, plan_key="export_pass")))
    await arrived.wait()
    (made,) = (await shop.at_stripe("customers"))["data"]
    by_hand = subscription("ann", customer=made["id"], metadata={}, latest_invoice=None)
    async with running(database_url) as service:
        assert await service.outcomes(event("customer.subscription.created", by_hand)) == ["parked"]
        assert (await service.read("ann")).plan_keys == ("free",)
        go.set()
        await asking
        assert (await service.read("ann")).plan_keys == ("pro",)


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
