"""One process's subscription flows over a real database and the stand-in Stripe, with a proxy in between."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.subscription import ChangeRequest, Operation, PreviewRequest, Subscription, Wanted
from billing_service.flows.change_subscription import ChangeSubscription
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.create_portal_session import CreatePortalSession
from billing_service.flows.preview_subscription_update import PreviewSubscriptionUpdate
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.reads import Reads
from billing_service.flows.refresh import Refresh
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from sandbox.stripe.api import Interceptor
from sandbox.stripe.app import StandInStripe
from tests.integration.flows.catalog import CATALOG
from tests.stripe_proxy import Forward, StripeProxy, proxied

KEY = "sk_test_changes"


class Clock:
    """The time that the flows and the stand-in share, ahead of the real one by what the test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        """Give the time."""
        return datetime.now(UTC) + self.ahead


class AtStripe:
    """What happens at Stripe, past the service and its proxy."""

    stripe_url: str

    async def control(self, path: str, **body: Any) -> None:
        """Have the stand-in do what happens at Stripe."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.stripe_url}/_control/{path}", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()

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


class Subscriber(AtStripe):
    """The flows of one process, and what happens at Stripe."""

    def __init__(
        self, database: Database, stripe: StripeApi, proxy: StripeProxy, stripe_url: str, clock: Clock
    ) -> None:
        self.clock = clock
        self.proxy = proxy
        self.stripe_url = stripe_url
        self.prices = Prices(database, stripe, CATALOG)
        self.reads = Reads(database, stripe, self.prices, "default", clock)
        self.buy = CreateCheckoutSession(database, stripe, self.prices, self.reads, "default", clock)
        self.change = ChangeSubscription(database, stripe, self.prices, self.reads, clock)
        self.refresh = Refresh(database, stripe, self.reads, finish_left=self.change.finish_left)
        self.preview = PreviewSubscriptionUpdate(database, stripe, self.prices, self.reads, clock)
        self.portal = CreatePortalSession(database, stripe, self.prices, self.reads, clock)
        self.read = ReadEntitlements(database, self.prices, clock)

    async def subscribed(self, customer_id: str = "ann", plan_key: str = "pro", quantity: int = 1) -> str:
        """Buy a plan, pay it, have it heard of, and give the subscription's id."""
        request = CheckoutRequest(
            request_id=f"buy-{customer_id}-{plan_key}", customer_id=customer_id, plan_key=plan_key, price_key=None,
            quantity=quantity, success_url="https://shop.example/done", cancel_url="https://shop.example/plans",
            customer_email=None, allow_promotion_codes=False, metadata={},
        )  # fmt: skip
        session_id = (await self.buy(request)).session.checkout_session_id
        await self.control(f"checkout/sessions/{session_id}/complete", outcome="paid")
        subscription_id = (await self.reads.checkout_session(session_id)).subscription_id
        assert subscription_id is not None
        return subscription_id

    async def update(self, subscription_id: str, *, at_period_end: bool = False, **over: Any) -> Subscription:
        """Change a subscription of Ann's."""
        return await self.change(update_request(subscription_id, at_period_end=at_period_end, **over))

    async def subscription(self, subscription_id: str) -> dict[str, Any]:
        """Give a subscription as it is at Stripe."""
        return await self.at_stripe(f"subscriptions/{subscription_id}")

    async def set_card(self, subscription_id: str, outcome: str) -> None:
        """Say what charging the customer of a subscription comes to from now on."""
        customer = (await self.subscription(subscription_id))["customer"]
        await self.control(f"customers/{customer}/card", outcome=outcome)

    async def asked(self, subscription_id: str, operation: Operation, request_id: str) -> Subscription:
        """Cancel or resume a subscription of Ann's."""
        return await self.change(ChangeRequest(request_id, "ann", subscription_id, operation))

    async def answer(self, customer_id: str = "ann") -> Entitlements:
        """Give what a customer may use now."""
        return await self.read(customer_id)


def update_request(
    subscription_id: str,
    *,
    at_period_end: bool = False,
    request_id: str = "update-1",
    customer_id: str = "ann",
    plan_key: str | None = None,
    price_key: str | None = None,
    quantity: int | None = None,
) -> ChangeRequest:
    """Give a request to update."""
    operation = Operation.UPDATE_AT_PERIOD_END if at_period_end else Operation.UPDATE_NOW
    return ChangeRequest(request_id, customer_id, subscription_id, operation, Wanted(plan_key, price_key, quantity))


def preview_request(subscription_id: str, *, at_period_end: bool = False, **wanted: Any) -> PreviewRequest:
    """Give a request for a preview of a change of Ann's."""
    return PreviewRequest(
        "ann",
        subscription_id,
        at_period_end,
        Wanted(**{"plan_key": None, "price_key": None, "quantity": None} | wanted),
    )


async def raise_price(at: Subscriber, lookup_key: str, amount: int, *, archive: bool) -> None:
    """Sell a monthly price at another amount from now on, as an operator does in Stripe's dashboard."""
    old = (await at.at_stripe(f"prices?lookup_keys[]={lookup_key}"))["data"][0]
    form = {
        "product": old["product"], "currency": "eur", "unit_amount": str(amount), "recurring[interval]": "month",
        "lookup_key": lookup_key, "transfer_lookup_key": "true",
    }  # fmt: skip
    await at.at_stripe("prices", "POST", **form)
    if archive:
        await at.at_stripe(f"prices/{old['id']}", "POST", active="false")


async def decline(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer as Stripe does when a card is declined, and do nothing."""
    error = {"type": "card_error", "code": "card_declined", "message": "Your card was declined."}
    return web.json_response({"error": error}, status=402)


@asynccontextmanager
async def stand_in(clock: Clock, intercept: Interceptor | None = None) -> AsyncIterator[str]:
    """Run a stand-in that sells the catalog."""
    stripe = StandInStripe(KEY, now=lambda: clock().timestamp())
    stripe.intercept = intercept
    url = await stripe.start()
    stripe.seed(tomllib.loads((Path(__file__).parents[3] / "catalog.toml").read_text()))
    try:
        yield url
    finally:
        await stripe.stop()


@asynccontextmanager
async def subscriber(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Subscriber]:
    """Run the flows as one process would."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(stripe_url))
        database = Database(database_url)
        stack.push_async_callback(database.close)
        stripe = await stack.enter_async_context(StripeApi(KEY, proxy.url))
        yield Subscriber(database, stripe, proxy, stripe_url, clock)
