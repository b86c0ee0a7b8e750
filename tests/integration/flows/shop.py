"""One process's checkout flows over a real database and the stand-in Stripe, with a proxy in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from billing_service.domain.catalog import Catalog
from billing_service.domain.checkout import CheckoutRequest
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.get_checkout_session import GetCheckoutSession
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.reads import Reads
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.subscriber import KEY, AtStripe, Clock
from tests.stripe_proxy import StripeProxy, proxied

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


class Shop(AtStripe):
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

    async def sessions(self) -> list[dict[str, Any]]:
        """Give every session that exists at Stripe."""
        found: list[dict[str, Any]] = (await self.at_stripe("checkout/sessions"))["data"]
        return found


@asynccontextmanager
async def opened(database_url: str, stripe_url: str, clock: Clock) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxied(stripe_url))
        database = Database(database_url)
        stack.push_async_callback(database.close)
        stripe = await stack.enter_async_context(StripeApi(KEY, proxy.url))
        yield Shop(database, stripe, proxy, stripe_url, clock)


def selling(shop: Shop, catalog: Catalog) -> CreateCheckoutSession:
    """Give what a process with another catalog would sell."""
    prices = Prices(shop.database, shop.stripe, catalog)
    return CreateCheckoutSession(shop.database, shop.stripe, prices, shop.reads, "default", shop.clock)


def grouped(**groups: str | None) -> Catalog:
    """Give the catalog with some plans (plan key -> group) in other groups."""
    plans = {key: replace(CATALOG.plans[key], group=group) for key, group in groups.items()}
    return replace(CATALOG, plans={**CATALOG.plans, **plans})
