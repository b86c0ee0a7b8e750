"""A change is shown before it is made, and the portal's page lets a person make it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import aiohttp
import psycopg
import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.errors import (
    CustomerUnknownToStripeError,
    PlanGroupMismatchError,
    PriceNotAvailableError,
    StripeUnavailableError,
    SubscriptionChangePendingError,
    SubscriptionNotFoundError,
    SubscriptionNotLiveError,
)
from billing_service.domain.portal import PortalFlow, PortalRequest
from billing_service.domain.subscription import Operation
from tests.integration.flows.shop import grouped
from tests.integration.flows.subscriber import Clock, Subscriber, preview_request, raise_price, subscriber
from tests.stripe_proxy import fail, forward, lose_answer

CONFIGURATIONS = ("POST", "/v1/billing_portal/configurations")
BACK = "https://shop.example/account"


def portal(flow: PortalFlow = PortalFlow.MANAGE, subscription_id: str | None = None) -> PortalRequest:
    return PortalRequest("ann", BACK, flow, subscription_id)


async def visit(url: str, **form: str) -> str:
    """Open a page, or press one of its buttons and see what comes."""
    async with aiohttp.ClientSession() as session, session.request("POST" if form else "GET", url, data=form) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def test_a_preview_says_what_the_change_then_costs_and_changes(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    preview = await ann.preview(preview_request(subscription_id, plan_key="team", quantity=4))
    assert (preview.currency, preview.period_amount_minor) == ("EUR", 3600)
    assert preview.due_now_amount_minor == preview.proration_amount_minor == 3600 - 1200
    assert (preview.plan_key, preview.price_key, preview.quantity) == ("team", "monthly", 4)
    assert {change.feature_key: (change.before, change.after) for change in preview.feature_changes} == {
        "projects": (50, "unlimited"), "seats": (1, 4), "support": ("e-mail", "priority"),
    }  # fmt: skip
    assert (await ann.answer()).plan_keys == ("pro",)
    await ann.update(subscription_id, plan_key="team", quantity=4)
    assert (await ann.at_stripe("invoices"))["data"][0]["amount_paid"] == preview.due_now_amount_minor


async def test_a_preview_of_less_owes_nothing_now_and_says_what_is_credited(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    preview = await ann.preview(preview_request(subscription_id, plan_key="pro"))
    assert (preview.due_now_amount_minor, preview.proration_amount_minor) == (0, 1200 - 3600)


@pytest.mark.parametrize("at_period_end", [True, False])
async def test_a_preview_without_proration_owes_nothing_now(ann: Subscriber, at_period_end: bool) -> None:
    """At period end, and where what is asked for is what there is."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    quantity = 2 if at_period_end else 4
    preview = await ann.preview(preview_request(subscription_id, at_period_end=at_period_end, quantity=quantity))
    assert (preview.due_now_amount_minor, preview.proration_amount_minor) == (0, 0)
    assert preview.period_amount_minor == 900 * quantity
    assert (preview.effective_time > ann.clock()) is at_period_end


async def test_a_preview_is_refused_as_the_change_would_be(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    with pytest.raises(PlanGroupMismatchError):
        await ann.preview(preview_request(subscription_id, plan_key="export_pass"))
    with pytest.raises(SubscriptionNotFoundError):
        await ann.preview(preview_request("sub_of_somebody_else", plan_key="team"))


@pytest.mark.parametrize("at_period_end", [False, True])
async def test_a_preview_under_a_schedule_of_somebody_elses_is_refused_as_the_change_is(
    ann: Subscriber, at_period_end: bool
) -> None:
    """One of ours is no hindrance: the change would let it go."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.update(subscription_id, at_period_end=True, plan_key="pro")
    wanted = preview_request(subscription_id, at_period_end=at_period_end, quantity=2)
    assert (await ann.preview(wanted)).quantity == 2
    schedule = (await ann.subscription(subscription_id))["schedule"]
    await ann.at_stripe(f"subscription_schedules/{schedule}", "POST", **{"metadata[billing_deployment]": "other"})
    for call in (
        ann.preview(wanted),
        ann.update(subscription_id, at_period_end=at_period_end, request_id="update-2", quantity=2),
    ):
        with pytest.raises(SubscriptionChangePendingError) as raised:
            await call
        assert raised.value.metadata == {"pending": "schedule"}


async def test_a_preview_just_after_a_price_rise_says_the_new_price(ann: Subscriber) -> None:
    """Stripe's refusal of the old one is how we hear of it; the caller does not."""
    subscription_id = await ann.subscribed()
    await raise_price(ann, "team_monthly", 2000, archive=True)
    preview = await ann.preview(preview_request(subscription_id, plan_key="team", quantity=2))
    assert (preview.period_amount_minor, preview.due_now_amount_minor) == (4000, 4000 - 1200)


async def test_a_preview_at_a_price_that_is_not_sold_any_more_is_refused(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    price = (await ann.at_stripe("prices?lookup_keys[]=team_monthly"))["data"][0]["id"]
    await ann.at_stripe(f"prices/{price}", "POST", active="false")
    with pytest.raises(PriceNotAvailableError):
        await ann.preview(preview_request(subscription_id, plan_key="team"))


async def test_the_portals_page_opens_and_changes_land_without_our_help(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    url = await ann.portal(portal())
    page = await visit(url)
    assert "Pro" in page
    assert BACK in page
    (team,) = re.findall(r'value="(price_\w+)">\s*<button[^>]*>Switch to Team', page)
    await visit(url, action="switch", subscription=subscription_id, price=team)
    await ann.reads.subscription_object(subscription_id)
    assert (await ann.answer()).plan_keys == ("team",)
    assert "Ends on" in await visit(url, action="cancel", subscription=subscription_id)
    await ann.reads.subscription(subscription_id)
    (source,) = (await ann.answer()).sources
    assert source.state is SourceState.ENDING
    assert (await ann.asked(subscription_id, Operation.RESUME, "resume-1")).end_time is None
    assert "Renews on" in await visit(url)


async def test_a_subscription_is_managed_as_the_stripe_customer_whose_it_is(ann: Subscriber, database_url: str) -> None:
    """They buy as another one since: Stripe shows each only its own."""
    subscription_id = await ann.subscribed()
    other = (await ann.at_stripe("customers", "POST", name="Ann"))["id"]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE customers SET stripe_customer_id = %s", [other])
    assert subscription_id in await visit(await ann.portal(portal(PortalFlow.CANCEL, subscription_id)))


async def test_nobody_can_change_to_a_plan_of_another_group_in_the_portal(ann: Subscriber) -> None:
    """Each group has a configuration of its own, and where none is named and there are several, no plan can be changed."""
    subscription_id = await ann.subscribed()
    ann.prices.index = replace(ann.prices.index, catalog=grouped(team="side"))
    page = await visit(await ann.portal(portal(PortalFlow.UPDATE_PLAN, subscription_id)))
    sold = await asyncio.gather(
        *(ann.at_stripe(f"prices?lookup_keys[]={key}") for key in ("pro_yearly", "team_monthly"))
    )
    assert [found["data"][0]["id"] in page for found in sold] == [True, False]
    await ann.subscribed(plan_key="team")
    await ann.portal(portal())
    newest = (await ann.at_stripe("billing_portal/configurations"))["data"][0]
    assert newest["features"]["subscription_update"]["enabled"] is False


@pytest.mark.parametrize("flow", [PortalFlow.UPDATE_PLAN, PortalFlow.CANCEL])
async def test_a_flow_of_one_subscription_leads_to_it(ann: Subscriber, flow: PortalFlow) -> None:
    subscription_id = await ann.subscribed()
    assert subscription_id in await visit(await ann.portal(portal(flow, subscription_id)))


async def test_the_configuration_is_made_once_even_by_many_at_once(
    ann: Subscriber, database_url: str, stripe_url: str, clock: Clock
) -> None:
    await ann.subscribed()
    await asyncio.gather(*(ann.portal(portal()) for _ in range(8)))
    async with subscriber(database_url, stripe_url, clock) as other:
        await other.prices.refresh()
        await other.portal(portal(PortalFlow.UPDATE_PAYMENT_METHOD))
    (made,) = (await ann.at_stripe("billing_portal/configurations"))["data"]
    assert made["metadata"]["billing_deployment"] == "default"
    update = made["features"]["subscription_update"]
    assert {product["product"]: len(product["prices"]) for product in update["products"]} == {
        "prod_pro": 2, "prod_team": 1,
    }  # fmt: skip
    allowed = {product["product"]: product["adjustable_quantity"]["enabled"] for product in update["products"]}
    assert allowed == {"prod_pro": False, "prod_team": True}


async def test_a_configuration_is_found_again_by_another_database(
    ann: Subscriber, database_url: str, stripe_url: str
) -> None:
    """What was made at Stripe outlives the memory of it."""
    import psycopg  # noqa: PLC0415 - for this one test

    await ann.subscribed()
    await ann.portal(portal())
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM portal_configurations")
    await ann.portal(portal())
    assert len((await ann.at_stripe("billing_portal/configurations"))["data"]) == 1
    assert stripe_url


@pytest.mark.parametrize("fault", [lose_answer, fail])
async def test_a_configuration_that_was_not_heard_of_is_made_by_the_next_call(ann: Subscriber, fault: object) -> None:
    await ann.subscribed()
    ann.proxy.next(*CONFIGURATIONS, fault)  # type: ignore[arg-type]  # one of two behaviours
    with pytest.raises(StripeUnavailableError):
        await ann.portal(portal())
    assert await ann.portal(portal())
    assert len((await ann.at_stripe("billing_portal/configurations"))["data"]) == 1


async def test_a_configuration_that_was_switched_off_is_replaced(ann: Subscriber) -> None:
    await ann.subscribed()
    await ann.portal(portal())
    (made,) = (await ann.at_stripe("billing_portal/configurations"))["data"]
    await ann.at_stripe(f"billing_portal/configurations/{made['id']}", "POST", active="false")
    assert "Pro" in await visit(await ann.portal(portal()))


async def test_who_never_bought_has_no_portal(ann: Subscriber) -> None:
    with pytest.raises(CustomerUnknownToStripeError):
        await ann.portal(portal())


@pytest.mark.parametrize("flow", [PortalFlow.MANAGE, PortalFlow.UPDATE_PAYMENT_METHOD])
async def test_a_stripe_customer_that_was_deleted_behind_our_back_is_replaced(
    ann: Subscriber, flow: PortalFlow
) -> None:
    subscription_id = await ann.subscribed()
    gone = await delete_customer(ann, subscription_id)
    assert "You have no subscription" in await visit(await ann.portal(portal(flow)))
    (customer,) = (await ann.at_stripe("customers"))["data"]
    assert customer["id"] != gone
    assert customer["metadata"]["billing_customer_id"] == "ann"
    await ann.portal(portal(flow))
    assert len((await ann.at_stripe("customers"))["data"]) == 1


@pytest.mark.parametrize("flow", [PortalFlow.UPDATE_PLAN, PortalFlow.CANCEL])
async def test_the_subscriptions_of_a_deleted_stripe_customer_ended_with_it(ann: Subscriber, flow: PortalFlow) -> None:
    """Nobody had told us: the refusal is what tells."""
    subscription_id = await ann.subscribed()
    await delete_customer(ann, subscription_id)
    with pytest.raises(SubscriptionNotLiveError):
        await ann.portal(portal(flow, subscription_id))
    assert (await ann.answer()).plan_keys == ("free",)


async def delete_customer(ann: Subscriber, subscription_id: str) -> str:
    customer: str = (await ann.subscription(subscription_id))["customer"]
    await ann.at_stripe(f"customers/{customer}", "DELETE")
    return customer


async def test_a_configuration_of_somebody_else_is_neither_used_nor_touched(ann: Subscriber) -> None:
    """Not even one with our content's hash, of another deployment."""
    await ann.subscribed()
    await ann.portal(portal())
    (ours,) = (await ann.at_stripe("billing_portal/configurations"))["data"]
    form = {
        "features[invoice_history][enabled]": "true", "metadata[billing_deployment]": "other",
        "metadata[billing_portal_content]": ours["metadata"]["billing_portal_content"],
    }  # fmt: skip
    theirs = await ann.at_stripe("billing_portal/configurations", "POST", **form)
    await ann.at_stripe(f"billing_portal/configurations/{ours['id']}", "POST", active="false")
    await ann.portal(portal())
    found = {one["id"]: one for one in (await ann.at_stripe("billing_portal/configurations"))["data"]}
    assert len(found) == 3
    assert found[theirs["id"]] == theirs


async def test_a_price_that_rises_makes_a_configuration_that_sells_at_the_new_one(ann: Subscriber) -> None:
    """The one before stays as it was: pages that are open keep working."""
    await ann.subscribed()
    await ann.portal(portal())
    await raise_price(ann, "team_monthly", 1100, archive=False)
    (risen,) = (await ann.at_stripe("prices?lookup_keys[]=team_monthly"))["data"]
    await ann.prices.refresh()
    await ann.portal(portal())
    newest = (await ann.at_stripe("billing_portal/configurations"))["data"][0]
    prices = [price for one in newest["features"]["subscription_update"]["products"] for price in one["prices"]]
    assert risen["id"] in prices


async def test_a_product_of_which_one_plan_is_sold_one_at_a_time_has_no_quantity_in_the_portal(ann: Subscriber) -> None:
    """Stripe knows quantities of a product, not of a price: to change the quantity of the other plan is the caller's to offer."""
    await ann.subscribed()
    form = {
        "product": "prod_pro", "currency": "eur", "unit_amount": "900", "recurring[interval]": "month",
        "lookup_key": "team_monthly", "transfer_lookup_key": "true",
    }  # fmt: skip
    await ann.at_stripe("prices", "POST", **form)
    await ann.prices.refresh()
    await ann.portal(portal())
    (made,) = (await ann.at_stripe("billing_portal/configurations"))["data"]
    (product,) = made["features"]["subscription_update"]["products"]
    assert (product["product"], len(product["prices"])) == ("prod_pro", 3)
    assert product["adjustable_quantity"]["enabled"] is False


async def test_a_portal_of_a_moment_after_a_price_rise_has_every_plan_and_so_has_one_after_the_price_moved_back(
    ann: Subscriber,
) -> None:
    """What is made of prices that have moved is not kept under the hash of what is remembered."""
    subscription_id = await ann.subscribed()
    (before,) = (await ann.at_stripe("prices?lookup_keys[]=team_monthly"))["data"]
    moved = {"lookup_key": "team_monthly", "transfer_lookup_key": "true"}
    form = {"product": "prod_team", "currency": "eur", "unit_amount": "1100", "recurring[interval]": "month"}
    after = await ann.at_stripe("prices", "POST", **form, **moved)
    assert after["id"] in await visit(await ann.portal(portal(PortalFlow.UPDATE_PLAN, subscription_id)))
    await ann.at_stripe(f"prices/{before['id']}", "POST", **moved)
    await ann.prices.refresh()
    assert before["id"] in await visit(await ann.portal(portal(PortalFlow.UPDATE_PLAN, subscription_id)))


async def test_a_portal_is_not_made_of_prices_that_have_moved_and_cannot_be_read(ann: Subscriber) -> None:
    await ann.subscribed()
    form = {
        "product": "prod_team", "currency": "eur", "unit_amount": "1100", "recurring[interval]": "month",
        "lookup_key": "team_monthly", "transfer_lookup_key": "true",
    }  # fmt: skip
    await ann.at_stripe("prices", "POST", **form)
    ann.proxy.next("GET", "/v1/prices", forward, fail, forward)  # of the configuration, the refresh, and once more
    with pytest.raises(StripeUnavailableError):
        await ann.portal(portal())
    assert (await ann.at_stripe("billing_portal/configurations"))["data"] == []
    assert await ann.portal(portal())


async def test_the_portal_is_not_opened_on_what_is_not_the_customers_or_is_over(ann: Subscriber) -> None:
    other = await ann.subscribed("bob")
    subscription_id = await ann.subscribed()
    with pytest.raises(SubscriptionNotFoundError):
        await ann.portal(portal(PortalFlow.CANCEL, other))
    await ann.asked(subscription_id, Operation.CANCEL_NOW, "cancel-1")
    with pytest.raises(SubscriptionNotLiveError):
        await ann.portal(portal(PortalFlow.UPDATE_PLAN, subscription_id))
