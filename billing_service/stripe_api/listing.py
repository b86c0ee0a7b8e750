"""Reading any object by its id, and lists page by page. Lists only discover ids; an object is observed by reading it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import stripe

from billing_service.stripe_api.errors import StripeNoAnswer
from billing_service.stripe_api.sdk import Bounds, Read, bounded, server_time_s

PAGE_SIZE = 100  # Stripe's largest
MAX_TYPES = 20  # of events in one call: https://docs.stripe.com/api/events/list#list_events-types
MAX_PAGES = 10_000  # of one listing: a million objects; more means an answer that goes in circles

# Where each kind of object lives, and what a read of it brings along (`EXPANDED`).
_PATHS: Mapping[str, str] = {
    "checkout.session": "/v1/checkout/sessions",
    "subscription": "/v1/subscriptions",
    "invoice": "/v1/invoices",
    "invoice_payment": "/v1/invoice_payments",
    "charge": "/v1/charges",
    "refund": "/v1/refunds",
    "dispute": "/v1/disputes",
    "customer": "/v1/customers",
}
EXPANDED: Mapping[str, tuple[str, ...]] = {
    "checkout.session": ("payment_intent",),
    "subscription": ("latest_invoice",),
}

Permit = Callable[[], Awaitable[None]]
_Answer = tuple[dict[str, Any], int]
# Makes a request when it may, and as often as it should.
Through = Callable[[Callable[[], Awaitable[_Answer]]], Awaitable[_Answer]]


@dataclass(frozen=True)
class Page:
    """One page of a list, the newest first, as Stripe lists."""

    data: tuple[dict[str, Any], ...]
    has_more: bool


class StripeListing:
    """Reads through the SDK's raw requests, so that one path serves every kind."""

    def __init__(self, client: stripe.StripeClient, bounds: Bounds, through: Through | None = None) -> None:
        """Take the client whose key and address are used, and what each request goes through."""
        self._client = client
        self._bounds = bounds
        self._through = through

    def paced(self, permit: Permit) -> StripeListing:
        """Give the same, awaiting a permit before each request."""

        async def permitted(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
            await permit()
            return await ask()

        return self.through(permitted)

    def through(self, through: Through) -> StripeListing:
        """Give the same, with each request made by what is given."""
        return StripeListing(self._client, self._bounds, through)

    async def get(self, kind: str, object_id: str) -> Read:
        """Read one object, a subscription with all of its items.

        Raises:
            StripeCallError: Stripe did not answer with it.
            KeyError: objects of this kind are not read.
        """
        params: dict[str, Any] = {"expand": list(EXPANDED[kind])} if kind in EXPANDED else {}
        body, server_time = await self._request(f"{kind}.get", f"{_PATHS[kind]}/{object_id}", params)
        if not isinstance(body.get("id"), str):
            raise StripeNoAnswer(f"{kind}.get", "an answer that is not Stripe's")
        items = body.get("items") if kind == "subscription" else None
        if isinstance(items, dict) and items.get("has_more") is True:
            body["items"] = {**items, "data": await self._items(object_id), "has_more": False}
        return Read(body, server_time)

    async def _items(self, subscription_id: str) -> list[dict[str, Any]]:
        query = {"subscription": subscription_id}
        pages = self.pages("subscription_items.list", "/v1/subscription_items", query)
        return [item async for page in pages for item in page.data]

    async def pages(self, operation: str, path: str, params: Mapping[str, Any]) -> AsyncIterator[Page]:
        """Give a list page by page, the newest first; bounded. Raises StripeCallError."""
        query: dict[str, Any] = {**params, "limit": PAGE_SIZE}
        for _ in range(MAX_PAGES):
            body, _time = await self._request(operation, path, query)
            data = body.get("data")
            if not isinstance(data, list) or not all(isinstance(one, dict) and "id" in one for one in data):
                raise StripeNoAnswer(operation, "an answer that is not Stripe's")
            yield Page(tuple(data), bool(body.get("has_more")))
            if not body.get("has_more") or not data:
                return
            query["starting_after"] = data[-1]["id"]
        raise StripeNoAnswer(operation, f"more than {MAX_PAGES} pages")

    async def events(self, since: int, until: int, types: Sequence[str]) -> AsyncIterator[Page]:
        """List events of these types created in [since, until), unix seconds; Stripe keeps 30 days.

        Twenty types at a time, which is the most that Stripe takes; the newest first only within these.
        """
        query = {"created": {"gte": since, "lt": until}}
        for start in range(0, len(types), MAX_TYPES):
            some = {"types": list(types[start : start + MAX_TYPES])}
            async for page in self.pages("events.list", "/v1/events", query | some):
                yield page

    def subscriptions(self, stripe_customer_id: str) -> AsyncIterator[Page]:
        """List the subscriptions of one Stripe customer, of any status."""
        return self.pages("subscriptions.list", "/v1/subscriptions", {"status": "all", "customer": stripe_customer_id})

    def live_subscriptions(self, after: str = "") -> AsyncIterator[Page]:
        """List every subscription that is not canceled, beginning after an id."""
        return self.pages("subscriptions.list", "/v1/subscriptions", _after(after))

    def completed_sessions(self, stripe_customer_id: str = "", after: str = "") -> AsyncIterator[Page]:
        """List the checkout sessions that were completed, of one Stripe customer or of all, beginning after an id."""
        whose = {"customer": stripe_customer_id} if stripe_customer_id else {}
        query = {"status": "complete"} | whose | _after(after)
        return self.pages("checkout.sessions.list", "/v1/checkout/sessions", query)

    def charges(self, stripe_customer_id: str) -> AsyncIterator[Page]:
        """List the charges of one Stripe customer."""
        return self.pages("charges.list", "/v1/charges", {"customer": stripe_customer_id})

    def refunds_of(self, payment_intent_id: str) -> AsyncIterator[Page]:
        """List the refunds of a payment intent."""
        return self.pages("refunds.list", "/v1/refunds", {"payment_intent": payment_intent_id})

    def disputes_of(self, payment_intent_id: str) -> AsyncIterator[Page]:
        """List the disputes of a payment intent."""
        return self.pages("disputes.list", "/v1/disputes", {"payment_intent": payment_intent_id})

    def sessions_of_payment(self, payment_intent_id: str) -> AsyncIterator[Page]:
        """List the sessions of a payment intent: one, or none."""
        return self.pages("checkout.sessions.list", "/v1/checkout/sessions", {"payment_intent": payment_intent_id})

    def invoice_payments_of(self, payment_intent_id: str) -> AsyncIterator[Page]:
        """List what ties a payment intent to invoices."""
        payment = {"type": "payment_intent", "payment_intent": payment_intent_id}
        return self.pages("invoice_payments.list", "/v1/invoice_payments", {"payment": payment})

    async def _request(self, operation: str, path: str, params: Mapping[str, Any]) -> _Answer:
        ask = partial(self._ask, operation, path, params)
        return await (ask() if self._through is None else self._through(ask))

    async def _ask(self, operation: str, path: str, params: Mapping[str, Any]) -> _Answer:
        call = self._client.raw_request_async("get", path, **params)
        answer = await bounded(operation, call, self._bounds)
        content = json.loads(answer.body)
        if not isinstance(content, dict):
            raise StripeNoAnswer(operation, "an answer that is not Stripe's")
        return content, server_time_s(answer.headers.get("date"))


def _after(object_id: str) -> dict[str, str]:
    return {"starting_after": object_id} if object_id else {}
