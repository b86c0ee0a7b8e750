"""What Stripe has deleted or denies stands in nobody's way of buying."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import aiohttp
import psycopg
import pytest

from billing_service.deadline import deadline_after
from billing_service.domain.checkout import CheckoutState
from billing_service.domain.errors import AlreadySubscribedError
from billing_service.flows.fulfill import Fulfill
from tests.integration.flows.shop import REQUEST, Shop
from tests.integration.flows.subscriber import KEY
from tests.stripe_proxy import deny, held, lose_request


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


async def test_whoever_has_paid_is_not_given_the_page_again_though_nobody_told_us(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    with pytest.raises(AlreadySubscribedError):
        await shop.create(replace(REQUEST, request_id="request-2"))
    assert (await shop.read("ann")).plan_keys == ("pro",)


async def test_a_page_that_expired_though_nobody_told_us_is_replaced_by_one_that_can_be_paid(shop: Shop) -> None:
    first = await shop.create(REQUEST)
    await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/expire")
    second = await shop.create(replace(REQUEST, request_id="request-2"))
    states = {made["id"]: made["status"] for made in await shop.sessions()}
    assert states == {first.session.checkout_session_id: "expired", second.session.checkout_session_id: "open"}
    assert not second.reused


@pytest.mark.parametrize("asked", ["session", "customer"])
@pytest.mark.parametrize("fault", [lose_request, held(asyncio.Event(), asyncio.Event())], ids=["lost", "hangs"])
async def test_an_open_page_is_given_again_while_stripe_is_away(shop: Shop, fault: Any, asked: str) -> None:
    first = await shop.create(REQUEST)
    (made,) = await shop.sessions()
    paths = {"session": f"/v1/checkout/sessions/{made['id']}", "customer": f"/v1/customers/{made['customer']}"}
    shop.proxy.next("GET", paths[asked], fault)
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
