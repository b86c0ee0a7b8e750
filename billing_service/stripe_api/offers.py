"""Reads what an account sells, and makes what is missing, for whoever deploys a catalog."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import stripe

from billing_service.domain.catalog import Charge, Interval
from billing_service.domain.catalog_actions import Action, ActionKind
from billing_service.domain.observation import METADATA_DEPLOYMENT
from billing_service.domain.offers import OfferedPrice, OfferedProduct, Offers
from billing_service.domain.portal import METADATA_CONTENT
from billing_service.domain.views import METADATA_PLAN_KEY
from billing_service.stripe_api.errors import StripeNoAnswer
from billing_service.stripe_api.listing import StripeListing
from billing_service.stripe_api.sdk import Bounds, Read, bounded, read_of

MAX_LOOKUP_KEYS_PER_CALL = 10  # Stripe's limit: https://docs.stripe.com/api/prices/list#list_prices-lookup_keys
MAX_PAGES = 200  # of products or portal configurations: twenty thousand

_Body = Mapping[str, Any]


class StripeOffers:
    """The products, prices and portal configurations of an account."""

    def __init__(self, client: stripe.StripeClient, bounds: Bounds, listing: StripeListing) -> None:
        """Share the client with everything else that calls Stripe."""
        self._client = client
        self._bounds = bounds
        self._listing = listing

    async def read(self, lookup_keys: Sequence[str], deployment: str) -> Offers:
        """Read the prices of these lookup keys, and what this deployment made.

        Raises:
            StripeCallError: Stripe did not answer with all of it.
        """
        prices: dict[str, OfferedPrice] = {}
        for start in range(0, len(lookup_keys), MAX_LOOKUP_KEYS_PER_CALL):
            some = {
                "lookup_keys": list(lookup_keys[start : start + MAX_LOOKUP_KEYS_PER_CALL]),
                "expand": ["data.product"],
            }
            async for body in self._all("prices.list", "/v1/prices", some):
                prices[str(body["lookup_key"])] = price_of(body, deployment)
        return Offers(prices, await self._products(deployment), await self._portals(deployment))

    async def carry_out(self, action: Action, idempotency_key: str) -> Read:
        """Do one action; its body must be known. Raises StripeCallError."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        body: Any = dict(action.body or {})
        v1 = self._client.v1

        async def send() -> Read:
            match action.kind:
                case ActionKind.CREATE_PRODUCT:
                    return read_of(action.kind, await v1.products.create_async(body, options))
                case ActionKind.UPDATE_PRODUCT:
                    return read_of(action.kind, await v1.products.update_async(action.object_id or "", body, options))
                case ActionKind.CREATE_PRICE | ActionKind.REPLACE_PRICE:
                    return read_of(action.kind, await v1.prices.create_async(body, options))
                case ActionKind.CREATE_PORTAL:
                    made = await v1.billing_portal.configurations.create_async(body, options)
                    return read_of(action.kind, made)

        return await bounded(action.kind, send(), self._bounds)

    async def _products(self, deployment: str) -> dict[str, OfferedProduct]:
        """Give what this deployment made; of several for one plan an active one, and of those the oldest."""
        found: dict[str, OfferedProduct] = {}
        async for body in self._all("products.list", "/v1/products", {}):  # the newest first
            product = product_of(body, deployment)
            known = found.get(product.plan_key or "")
            if product.plan_key is not None and (known is None or product.active or not known.active):
                found[product.plan_key] = product
        return found

    async def _portals(self, deployment: str) -> frozenset[str]:
        path, query = "/v1/billing_portal/configurations", {"active": True}
        bodies = [body async for body in self._all("billing_portal.configurations.list", path, query)]
        marks = [body.get("metadata") or {} for body in bodies]
        return frozenset(
            str(mark[METADATA_CONTENT])
            for mark in marks
            if mark.get(METADATA_DEPLOYMENT) == deployment and METADATA_CONTENT in mark
        )

    async def _all(self, operation: str, path: str, query: _Body) -> AsyncIterator[dict[str, Any]]:
        pages = 0
        async for page in self._listing.pages(operation, path, query):
            pages += 1
            if pages > MAX_PAGES:
                raise StripeNoAnswer(operation, f"more than {MAX_PAGES} pages")
            for body in page.data:
                yield body


def price_of(body: _Body, deployment: str) -> OfferedPrice:
    """Give a price from Stripe's JSON, whose product is expanded.

    Raises:
        StripeNoAnswer: it has no such shape.
    """
    try:
        recurring = body.get("recurring") or {}
        return OfferedPrice(
            price_id=body["id"],
            lookup_key=body["lookup_key"],
            active=body["active"],
            livemode=body["livemode"],
            recurring=bool(recurring),
            metered=recurring.get("usage_type", "licensed") != "licensed",
            charge=_charge(body, recurring),
            product=product_of(body["product"], deployment),
            ours=(body.get("metadata") or {}).get(METADATA_DEPLOYMENT) == deployment,
        )
    except (KeyError, TypeError, AttributeError):
        raise StripeNoAnswer("prices.list", "a price of an unknown shape") from None


def product_of(body: _Body, deployment: str) -> OfferedProduct:
    """Give a product from Stripe's JSON. Raises KeyError or TypeError for another shape."""
    marks = body.get("metadata") or {}
    ours = marks.get(METADATA_DEPLOYMENT) == deployment
    return OfferedProduct(
        product_id=body["id"],
        name=body.get("name") or "",
        description=body.get("description") or "",
        active=bool(body.get("active", False)),  # a deleted product says nothing but its id
        plan_key=marks.get(METADATA_PLAN_KEY) if ours else None,
    )


def _charge(body: _Body, recurring: _Body) -> Charge | None:
    """Give the one amount that a price charges per unit; None where it charges otherwise."""
    amount = body.get("unit_amount")
    plain = body.get("billing_scheme") == "per_unit" and not body.get("transform_quantity")
    interval = recurring.get("interval")
    if not plain or amount is None or (interval is not None and interval not in set(Interval)):
        return None
    count = recurring.get("interval_count", 1)
    return Charge(amount, body["currency"], None if interval is None else Interval(interval), count)
