"""A change that is asked for again, after whatever came of it, is what it would be if it were asked for now, or was made before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from billing_service.domain.access import SourceState
from billing_service.domain.errors import (
    PaymentFailedError,
    PriceNotAvailableError,
    StripeUnavailableError,
    SubscriptionChangePendingError,
    SubscriptionNotFoundError,
    SubscriptionPausedError,
    SubscriptionUnpaidError,
)
from billing_service.domain.operator import Order
from billing_service.domain.subscription import Operation
from billing_service.flows.link_stripe_customer import LinkStripeCustomer, LinkWish
from billing_service.storage import subscription_requests
from billing_service.storage.database import Database
from billing_service.storage.subscription_requests import ChangeState
from sandbox.stripe.errors import ApiError
from tests.integration.flows.subscriber import (
    Clock,
    Subscriber,
    decline,
    preview_request,
    raise_price,
    stand_in,
    subscriber,
)
from tests.stripe_proxy import Fault, fail, forward, held, lose_answer, lose_request, refuse


def path(subscription_id: str) -> tuple[str, str]:
    return ("POST", f"/v1/subscriptions/{subscription_id}")


async def update_invoices(ann: Subscriber) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ann.at_stripe("invoices"))["data"]
    return [invoice for invoice in found if invoice["billing_reason"] == "subscription_update"]


async def quantity(ann: Subscriber, subscription_id: str) -> int:
    found: int = (await ann.subscription(subscription_id))["items"]["data"][0]["quantity"]
    return found


async def unheard(ann: Subscriber, subscription_id: str, fault: Fault, **wanted: Any) -> None:
    """Ask for an update whose answer does not come."""
    ann.proxy.next(*path(subscription_id), fault)
    with pytest.raises(StripeUnavailableError):
        await ann.update(subscription_id, **wanted)


async def declined(ann: Subscriber, subscription_id: str, **wanted: Any) -> None:
    """Ask for an update that the card does not pay."""
    ann.proxy.next(*path(subscription_id), decline)
    with pytest.raises(PaymentFailedError):
        await ann.update(subscription_id, **wanted)


async def renewal_fails(ann: Subscriber, subscription_id: str) -> None:
    await ann.set_card(subscription_id, "declined")
    await ann.control(f"subscriptions/{subscription_id}/renew", outcome="failed")
    assert (await ann.subscription(subscription_id))["status"] == "past_due"


@pytest.mark.parametrize("wanted", [1, 12])
@pytest.mark.parametrize("before", [declined, unheard])
async def test_what_is_not_paid_is_not_credited_by_a_request_that_is_repeated(
    ann: Subscriber, wanted: int, before: Any
) -> None:
    """Declined, or lost on its way; by then the renewal has failed. Once that is paid the same id changes, once."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=10)
    await before(ann, subscription_id, *([lose_request] if before is unheard else []), quantity=wanted)
    await renewal_fails(ann, subscription_id)
    for _ in range(2):
        with pytest.raises(SubscriptionUnpaidError):
            await ann.update(subscription_id, quantity=wanted)
    assert await update_invoices(ann) == []
    await ann.set_card(subscription_id, "paid")
    latest = (await ann.subscription(subscription_id))["latest_invoice"]
    await ann.control(f"invoices/{latest}/collect", outcome="paid")
    await ann.reads.subscription(subscription_id)
    assert (await ann.update(subscription_id, quantity=wanted)).quantity == wanted
    assert len(await update_invoices(ann)) == 1


async def test_a_change_that_was_made_unheard_is_told_though_the_renewal_has_failed_since(ann: Subscriber) -> None:
    """No guard stands between a caller and what is true already."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=10)
    await unheard(ann, subscription_id, lose_answer, quantity=12)
    await renewal_fails(ann, subscription_id)
    assert (await ann.update(subscription_id, quantity=12)).quantity == 12
    assert len(await update_invoices(ann)) == 1


@pytest.mark.parametrize("before", [declined, unheard])
async def test_a_request_that_is_repeated_leaves_what_was_set_up_in_the_dashboard(ann: Subscriber, before: Any) -> None:
    subscription_id = await ann.subscribed()
    await before(ann, subscription_id, *([lose_request] if before is unheard else []), plan_key="team", quantity=4)
    await ann.set_card(subscription_id, "declined")
    await ann.control(
        f"subscriptions/{subscription_id}/change", lookup_key="team_monthly", quantity=9, pending_if_incomplete=True
    )
    await ann.set_card(subscription_id, "paid")
    with pytest.raises(SubscriptionChangePendingError):
        await ann.update(subscription_id, plan_key="team", quantity=4)
    assert (await ann.subscription(subscription_id))["pending_update"] is not None


@pytest.mark.parametrize("before", [declined, unheard])
async def test_a_request_that_is_repeated_does_not_change_what_was_paused_since(ann: Subscriber, before: Any) -> None:
    subscription_id = await ann.subscribed()
    await before(ann, subscription_id, *([lose_request] if before is unheard else []), plan_key="team", quantity=4)
    await ann.control(f"subscriptions/{subscription_id}/pause")
    with pytest.raises(SubscriptionPausedError):
        await ann.update(subscription_id, plan_key="team", quantity=4)
    assert await quantity(ann, subscription_id) == 1


async def test_after_a_decline_a_quantity_that_is_not_named_is_the_one_of_now(ann: Subscriber) -> None:
    """Somebody has bought five seats in the portal meanwhile; a repeated request sets none of them back."""
    subscription_id = await ann.subscribed()
    await declined(ann, subscription_id, plan_key="team")
    await ann.control(f"subscriptions/{subscription_id}/change", lookup_key="team_monthly", quantity=5)
    assert (await ann.update(subscription_id, plan_key="team")).quantity == 5
    assert await quantity(ann, subscription_id) == 5


@pytest.mark.parametrize("archive", [False, True])
async def test_after_a_decline_the_price_is_the_one_of_now(ann: Subscriber, archive: bool) -> None:
    subscription_id = await ann.subscribed()
    await declined(ann, subscription_id, plan_key="team", quantity=2)
    await raise_price(ann, "team_monthly", 2000, archive=archive)
    await ann.prices.refresh()
    preview = await ann.preview(preview_request(subscription_id, plan_key="team", quantity=2))
    assert (await ann.update(subscription_id, plan_key="team", quantity=2)).plan_key == "team"
    (invoice,) = await update_invoices(ann)
    assert invoice["total"] == preview.due_now_amount_minor == 4000 - 1200


@pytest.mark.parametrize("at_period_end", [False, True])
async def test_a_price_that_moved_a_moment_ago_is_asked_for_at_once(ann: Subscriber, at_period_end: bool) -> None:
    """Stripe's refusal is how we hear of it; the caller does not."""
    subscription_id = await ann.subscribed()
    await raise_price(ann, "team_monthly", 2000, archive=True)
    await ann.update(subscription_id, at_period_end=at_period_end, plan_key="team", quantity=2)
    if at_period_end:
        await ann.control(f"subscriptions/{subscription_id}/renew", outcome="paid")
    assert (await ann.subscription(subscription_id))["items"]["data"][0]["price"]["unit_amount"] == 2000


async def test_a_price_that_is_not_sold_any_more_is_refused_and_the_request_may_come_again(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    price = (await ann.at_stripe("prices?lookup_keys[]=team_monthly"))["data"][0]["id"]
    await ann.at_stripe(f"prices/{price}", "POST", active="false")
    with pytest.raises(PriceNotAvailableError):
        await ann.update(subscription_id, plan_key="team")
    await ann.at_stripe(f"prices/{price}", "POST", active="true")
    await ann.prices.refresh()
    assert (await ann.update(subscription_id, plan_key="team")).plan_key == "team"


async def test_a_decline_is_not_replayed_once_the_card_was_replaced(
    ann: Subscriber, database_url: str, stripe_url: str, clock: Clock
) -> None:
    """Two calls at once, each declined by a key of its own: the one that comes after them has another."""
    async with subscriber(database_url, stripe_url, clock) as another:
        subscription_id = await ann.subscribed()
        await another.prices.refresh()
        await ann.set_card(subscription_id, "declined")
        arrived, go = asyncio.Event(), asyncio.Event()
        another.proxy.next("GET", f"/v1/subscriptions/{subscription_id}", held(arrived, go))
        late = asyncio.create_task(another.update(subscription_id, plan_key="team", quantity=4))
        await arrived.wait()
        with pytest.raises(PaymentFailedError):
            await ann.update(subscription_id, plan_key="team", quantity=4)
        go.set()
        with pytest.raises(PaymentFailedError):
            await late
        await ann.set_card(subscription_id, "paid")
        assert (await ann.update(subscription_id, plan_key="team", quantity=4)).quantity == 4


async def test_a_read_that_fails_ends_no_attempt(ann: Subscriber) -> None:
    """The change was made unheard; its key still says so, and what the person did since stays."""
    subscription_id = await ann.subscribed()
    await unheard(ann, subscription_id, lose_answer, plan_key="team", quantity=2)
    ann.proxy.next("GET", f"/v1/subscriptions/{subscription_id}", fail, refuse)
    for _ in range(2):
        with pytest.raises(Exception, match="Stripe"):
            await ann.update(subscription_id, plan_key="team", quantity=2)
    await ann.control(f"subscriptions/{subscription_id}/change", quantity=7)
    assert (await ann.update(subscription_id, plan_key="team", quantity=2)).quantity == 7
    assert await quantity(ann, subscription_id) == 7


async def test_a_resumption_that_was_made_unheard_is_told_though_a_read_failed_since(ann: Subscriber) -> None:
    subscription_id = await ann.subscribed()
    await ann.control(f"subscriptions/{subscription_id}/pause")
    ann.proxy.next("POST", f"/v1/subscriptions/{subscription_id}/resume", lose_answer)
    ann.proxy.next("GET", f"/v1/subscriptions/{subscription_id}", forward, fail)
    for _ in range(2):
        with pytest.raises(StripeUnavailableError):
            await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    assert (await ann.asked(subscription_id, Operation.RESUME, "resume-1")).state is SourceState.ACTIVE


@pytest.mark.parametrize("fault", [refuse, fail, lose_request, lose_answer])
async def test_a_schedule_that_is_not_let_go_after_the_charge_is_let_go_by_the_same_request(
    ann: Subscriber, fault: Fault
) -> None:
    """Its next phase would undo what was paid: the caller is told to come again, and pays once."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await ann.update(subscription_id, at_period_end=True, request_id="later", plan_key="pro")
    schedule = (await ann.subscription(subscription_id))["schedule"]
    ann.proxy.next("POST", f"/v1/subscription_schedules/{schedule}/release", fault, fault)
    tries = 1 if fault is lose_answer else 2
    for _ in range(tries):
        with pytest.raises(StripeUnavailableError):
            await ann.update(subscription_id, quantity=9)
    changed = await ann.update(subscription_id, quantity=9)
    assert (changed.quantity, changed.scheduled_change) == (9, None)
    assert len(await update_invoices(ann)) == 1
    await ann.control(f"subscriptions/{subscription_id}/renew", outcome="paid")
    assert await quantity(ann, subscription_id) == 9


async def test_a_release_that_stripe_failed_is_not_answered_from_its_memory(database_url: str, clock: Clock) -> None:
    """Stripe keeps a 500 for the key that it was given to."""
    broken: list[str] = []

    async def intercept(request: web.Request) -> None:
        if broken and (request.method, request.path) == ("POST", broken[0]):
            broken.clear()
            raise ApiError("sorry", status=500, kind="api_error")

    async with stand_in(clock, intercept) as url, subscriber(database_url, url, clock) as ann:
        subscription_id = await ann.subscribed(plan_key="team", quantity=4)
        await ann.update(subscription_id, at_period_end=True, request_id="later", plan_key="pro")
        broken.append(f"/v1/subscription_schedules/{(await ann.subscription(subscription_id))['schedule']}/release")
        with pytest.raises(StripeUnavailableError):
            await ann.update(subscription_id, quantity=9)
        assert (await ann.update(subscription_id, quantity=9)).quantity == 9
        assert (await ann.subscription(subscription_id))["schedule"] is None


async def test_a_subscription_that_is_somebody_elses_by_now_is_not_changed_by_who_had_it(
    ann: Subscriber, database_url: str
) -> None:
    """An operator has linked its Stripe customer to another customer."""
    subscription_id = await ann.subscribed(plan_key="team", quantity=4)
    await unheard(ann, subscription_id, lose_request, quantity=9)
    database = Database(database_url)
    customer = (await ann.subscription(subscription_id))["customer"]
    link = LinkStripeCustomer(database, ann.reads, ann.prices, ann.clock)
    await link(Order("link-1", "mary", "as they asked"), LinkWish("bob", customer, replace=True))
    await database.close()
    with pytest.raises(SubscriptionNotFoundError):
        await ann.update(subscription_id, quantity=9)
    assert await quantity(ann, subscription_id) == 4


async def test_an_attempt_that_another_call_has_ended_is_neither_prepared_nor_answered_nor_forgotten(
    ann: Subscriber, database_url: str
) -> None:
    """What a slow call knows is of the attempt before."""
    subscription_id = await ann.subscribed()
    answer = await ann.asked(subscription_id, Operation.RESUME, "resume-1")
    await unheard(ann, subscription_id, lose_request, plan_key="team")
    database = Database(database_url)
    slow = await database.run(lambda c: subscription_requests.find(c, "update-1"))
    assert slow is not None
    assert slow.item_id is not None
    item_id, body = slow.item_id, slow.request_body or {}
    await database.run(lambda c: subscription_requests.next_attempt(c, slow, anew=True))
    await database.run(lambda c: subscription_requests.next_attempt(c, slow, anew=True))
    await database.run(lambda c: subscription_requests.prepare(c, slow, item_id, body))
    await database.run(lambda c: subscription_requests.finish(c, slow.intent_id, answer))
    await database.run(lambda c: subscription_requests.forget(c, slow))
    now = await database.run(lambda c: subscription_requests.find(c, "update-1"))
    assert now is not None
    assert (now.state, now.attempt, now.request_body) == (ChangeState.CHANGING, 2, None)
    await database.close()
    assert (await ann.update(subscription_id, plan_key="team")).plan_key == "team"
