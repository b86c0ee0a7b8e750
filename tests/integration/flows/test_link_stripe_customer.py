"""A Stripe customer that is bound by hand brings along all that is known of it, and leaves nothing of that behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from aiohttp import web

from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.errors import StripeUnavailableError
from billing_service.domain.operator import Order
from billing_service.domain.portal import PortalFlow, PortalRequest
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.create_portal_session import CreatePortalSession
from billing_service.flows.link_stripe_customer import Linked, LinkStripeCustomer, LinkWish
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture
from tests.stripe_proxy import Forward, held, lose_answer

CUSTOMERS = ("POST", "/v1/customers")
_numbers = count(1)


def clock() -> datetime:
    return datetime.now(UTC)


async def link(world: World, customer_id: str, stripe_id: str) -> Linked:  # noqa: F811
    """Bind, whoever it is bound to."""
    flow = LinkStripeCustomer(world.database, world.reads, world.prices, clock)
    return await flow(
        Order(f"link-{next(_numbers)}", "eve", "ticket 7"), LinkWish(customer_id, stripe_id, replace=True)
    )


async def bought(world: World, name: str) -> str:  # noqa: F811
    """Have somebody buy whatever there is, as one Stripe customer, and have all of it heard of; gives that one."""
    session = await world.call("GET", f"/v1/checkout/sessions/{await world.buy(name)}")
    cus = str(session["customer"])
    payments = []
    for outcome in ("paid", "paid", "paid", "processing"):
        session_id = await world.buy(name, "export_pass", "payment", outcome, cus)
        payments.append((await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["payment_intent"])
    await world.hear_all()  # Stripe lists no more than thirty days of them
    await world.call("POST", "/_control/refunds", payment_intent=payments[0])
    await world.call("POST", "/_control/disputes", payment_intent=payments[1])
    await world.call("POST", "/_control/clock", advance_s=32 * 86_400)  # a renewal
    await world.hear_all()
    return cus


async def page(world: World, name: str, plan_key: str) -> str:  # noqa: F811
    """Have somebody begin to buy, and give the session's id."""
    flow = CreateCheckoutSession(world.database, world.stripe, world.prices, world.reads, "default", clock)
    request = CheckoutRequest(
        request_id=f"buy-{next(_numbers)}", customer_id=name, plan_key=plan_key, price_key=None, quantity=1,
        success_url="https://shop.example/done", cancel_url="https://shop.example/plans",
        customer_email=None, allow_promotion_codes=False, metadata={},
    )  # fmt: skip
    return (await flow(request)).session.checkout_session_id


def facts(world: World, name: str) -> dict[str, Any]:  # noqa: F811
    """Give what is kept of what somebody has bought."""
    return dict(world.sql(f"SELECT facts FROM customers WHERE customer_id = '{name}'")[0][0])  # noqa: S608 - of this test


def told(world: World, name: str) -> list[tuple[Any, ...]]:  # noqa: F811
    return world.sql(f"SELECT revision, cause FROM entitlement_changes WHERE customer_id = '{name}' ORDER BY position")  # noqa: S608


async def test_all_that_is_known_of_a_stripe_customer_goes_along_and_both_are_told_once(world: World) -> None:  # noqa: F811
    cus = await bought(world, "ann")
    await world.buy("ben", "team_monthly")
    await world.hear_all()
    had, revisions = facts(world, "ann"), {name: told(world, name)[-1][0] for name in ("ann", "ben")}
    bens = facts(world, "ben")["subscriptions"]
    assert (len(had["subscriptions"]), len(had["purchases"])) == (1, 4)
    assert (await link(world, "ben", cus)).replaced_customer_id == "ann"
    after = facts(world, "ben")
    assert after["purchases"] == had["purchases"]
    assert sorted(after["subscriptions"], key=str) == sorted(had["subscriptions"] + bens, key=str)
    assert not facts(world, "ann").get("subscriptions")
    assert not facts(world, "ann").get("purchases")
    for name in ("ann", "ben"):
        assert told(world, name)[-1] == (revisions[name] + 1, "binding")
    await link(world, "ann", cus)
    assert (facts(world, "ann"), facts(world, "ben")["subscriptions"]) == (had, bens)


async def test_one_that_is_deleted_at_stripe_is_bound_and_nobody_buys_as_it(world: World) -> None:  # noqa: F811
    session = await world.call("GET", f"/v1/checkout/sessions/{await world.buy('ann')}")
    cus = str(session["customer"])
    await world.hear_all()
    await world.call("DELETE", f"/v1/customers/{cus}")
    assert not (await link(world, "ben", cus)).current
    for name in ("ann", "ben"):
        assert (await world.read(name)).plan_keys == ("free",)
    session_id = await page(world, "ben", "pro")
    assert (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["customer"] != cus


async def test_who_has_one_goes_on_buying_as_that_one(world: World) -> None:  # noqa: F811
    """The other one's purchases are theirs all the same."""
    first = await page(world, "ben", "export_pass")
    bens = (await world.call("GET", f"/v1/checkout/sessions/{first}"))["customer"]
    session = await world.call("GET", f"/v1/checkout/sessions/{await world.buy('ann')}")
    await world.hear_all()
    assert not (await link(world, "ben", str(session["customer"]))).current
    assert (await world.read("ben")).plan_keys == ("pro",)
    again = await page(world, "ben", "export_pass")
    assert (await world.call("GET", f"/v1/checkout/sessions/{again}"))["customer"] == bens


async def test_whom_it_was_taken_from_does_not_come_back_to_it(world: World) -> None:  # noqa: F811
    """Ann was being made known to Stripe, which was not heard of; its answer to the same key would be the one that is Ben's by now."""
    world.proxy.next(*CUSTOMERS, lose_answer)
    with pytest.raises(StripeUnavailableError):
        await page(world, "ann", "pro")
    (cus,) = [one["id"] for one in (await world.call("GET", "/v1/customers"))["data"]]
    await link(world, "ben", cus)
    session_id = await page(world, "ann", "pro")
    await world.call("POST", f"/_control/checkout/sessions/{session_id}/complete", outcome="paid")
    await world.hear_all()
    assert [(await world.read(name)).plan_keys for name in ("ann", "ben")] == [("pro",), ("free",)]


async def test_nor_while_it_is_being_made(world: World) -> None:  # noqa: F811
    """Stripe's answer is on its way when it is bound to Ben."""
    arrived, go = asyncio.Event(), asyncio.Event()
    world.proxy.next(*CUSTOMERS, held(arrived, go))
    making = asyncio.create_task(page(world, "ann", "pro"))
    await arrived.wait()
    (cus,) = [one["id"] for one in (await world.call("GET", "/v1/customers"))["data"]]
    await link(world, "ben", cus)
    go.set()
    session_id = await making
    assert (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["customer"] != cus


async def test_the_portal_is_that_of_the_one_they_buy_as(world: World) -> None:  # noqa: F811
    """Of two who were made elsewhere, the one that was bound by hand first."""
    session = await world.call("GET", f"/v1/checkout/sessions/{await world.buy('ann')}")
    await world.hear_all()
    other = (await world.call("POST", "/v1/customers"))["id"]
    first, last = sorted([str(session["customer"]), str(other)], reverse=True)
    await link(world, "ann", first)
    await link(world, "ann", last)
    opened: list[bytes] = []

    async def hear(request: web.Request, forward: Forward) -> web.StreamResponse:
        opened.append(await request.read())
        return await forward()

    world.proxy.next("POST", "/v1/billing_portal/sessions", hear)
    portal = CreatePortalSession(world.database, world.stripe, world.prices, world.reads, clock)
    await portal(PortalRequest("ann", "https://shop.example/", PortalFlow.MANAGE, None))
    assert f"customer={first}" in opened[0].decode().split("&")
