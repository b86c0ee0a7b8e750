"""Stripe's API as the flows use it: a handful of calls that take and give plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Self, TypeVar

import stripe

from billing_service.stripe_api.errors import StripeNoAnswer
from billing_service.stripe_api.listing import StripeListing
from billing_service.stripe_api.offers import StripeOffers
from billing_service.stripe_api.prices import StripePrice, price_of
from billing_service.stripe_api.sdk import After, Before, Bounds, Read, bounded, open_client, read_of
from billing_service.stripe_api.webhook_endpoints import StripeWebhookEndpoints

DEFAULT_TIMEOUT_S = 20.0  # Stripe answers a session within a second or two; the caller's deadline is mostly shorter
MAX_LOOKUP_KEYS_PER_CALL = 10  # Stripe's limit: https://docs.stripe.com/api/prices/list#list_prices-lookup_keys
PAGE_SIZE = 100  # Stripe's largest
MAX_PAGES = 10  # a lookup key names one price, so that one page holds them all; more means a confused answer

_Answer = TypeVar("_Answer")
_Params = dict[str, Any]


class StripeApi:
    """Stripe through its SDK. Every call ends in time, and raises nothing but a StripeCallError."""

    def __init__(
        self,
        api_key: str,
        api_base: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        before: Before | None = None,
        after: After | None = None,
    ) -> None:
        """Take the secret or restricted key, the URL of the API, and the longest that one call may take.

        `before` is called before each request leaves and `after` when it has ended, for whoever counts them; they do not raise.
        """
        self._bounds = Bounds(timeout_s, before, after)
        self._client, self._http_client = open_client(api_key, api_base, timeout_s=timeout_s)
        self.listing = StripeListing(self._client, self._bounds)
        self.offers = StripeOffers(self._client, self._bounds, self.listing)
        self.webhook_endpoints = StripeWebhookEndpoints(self._client, self._bounds, self.listing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; no call may follow."""
        await self._http_client.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    async def create_customer(self, params: _Params, idempotency_key: str) -> str:
        """Make a customer and give its id, "cus_..."."""
        call = self._client.v1.customers.create_async(_typed(params), {"idempotency_key": idempotency_key})
        return str((await self._read("customers.create", call)).object["id"])

    async def create_checkout_session(self, params: _Params, idempotency_key: str) -> Read:
        """Make a checkout session."""
        call = self._client.v1.checkout.sessions.create_async(_typed(params), {"idempotency_key": idempotency_key})
        return await self._read("checkout.sessions.create", call)

    async def expire_checkout_session(self, session_id: str) -> Read:
        """Make an open checkout session unpayable; StripeDefinite when it is not open (any more)."""
        call = self._client.v1.checkout.sessions.expire_async(session_id)
        return await self._read("checkout.sessions.expire", call)

    async def get_checkout_session(self, session_id: str, *, expand: Sequence[str] = ()) -> Read:
        """Read a checkout session; `expand` as Stripe has it, for example ("payment_intent", "line_items")."""
        call = self._client.v1.checkout.sessions.retrieve_async(session_id, _expanding(expand))
        return await self._read("checkout.sessions.get", call)

    async def update_subscription(self, subscription_id: str, params: _Params, idempotency_key: str) -> Read:
        """Change a subscription; StripeDefinite with status 402 when a payment that this asks for fails."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        call = self._client.v1.subscriptions.update_async(subscription_id, _typed(params), options)
        return await self._read("subscriptions.update", call)

    async def resume_subscription(self, subscription_id: str, params: _Params, idempotency_key: str) -> Read:
        """Let a paused subscription run again; it stays paused where the invoice of its new period is not paid."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        call = self._client.v1.subscriptions.resume_async(subscription_id, _typed(params), options)
        return await self._read("subscriptions.resume", call)

    async def cancel_subscription(self, subscription_id: str) -> Read:
        """End a subscription now; StripeDefinite when it is over already. Stripe takes no idempotency key for a DELETE."""
        call = self._client.v1.subscriptions.cancel_async(subscription_id)
        return await self._read("subscriptions.cancel", call)

    async def get_schedule(self, schedule_id: str) -> Read:
        """Read a subscription schedule."""
        call = self._client.v1.subscription_schedules.retrieve_async(schedule_id)
        return await self._read("subscription_schedules.get", call)

    async def create_schedule(self, subscription_id: str, idempotency_key: str) -> Read:
        """Put a subscription under a schedule of its own; StripeDefinite when it has one."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        call = self._client.v1.subscription_schedules.create_async({"from_subscription": subscription_id}, options)
        return await self._read("subscription_schedules.create", call)

    async def update_schedule(self, schedule_id: str, params: _Params, idempotency_key: str) -> Read:
        """Set the phases of a schedule."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        call = self._client.v1.subscription_schedules.update_async(schedule_id, _typed(params), options)
        return await self._read("subscription_schedules.update", call)

    async def release_schedule(self, schedule_id: str, idempotency_key: str) -> Read:
        """Let a subscription go on without its schedule, as it is now."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        call = self._client.v1.subscription_schedules.release_async(schedule_id, None, options)
        return await self._read("subscription_schedules.release", call)

    async def preview_invoice(self, params: _Params) -> Read:
        """Work out an invoice that is not made."""
        return await self._read("invoices.preview", self._client.v1.invoices.create_preview_async(_typed(params)))

    async def create_portal_configuration(self, params: _Params, idempotency_key: str) -> Read:
        """Make a configuration of the portal."""
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        call = self._client.v1.billing_portal.configurations.create_async(_typed(params), options)
        return await self._read("billing_portal.configurations.create", call)

    async def find_portal_configuration(self, metadata: Mapping[str, str]) -> str | None:
        """Give the id of the newest active configuration whose metadata has these entries, or None."""
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await self._call("billing_portal.configurations.list", self._configuration_page(cursor))
            for configuration in page.data:
                entries = configuration.metadata.to_dict() if configuration.metadata else {}
                if metadata.items() <= entries.items():
                    return str(configuration.id)
            if not (page.has_more and page.data):
                return None
            cursor = page.data[-1].id
        return None  # a thousand were looked at; one more does no harm

    async def _configuration_page(self, cursor: str | None) -> stripe.ListObject[stripe.billing_portal.Configuration]:
        params: _Params = {"active": True, "limit": PAGE_SIZE}
        if cursor is not None:
            params["starting_after"] = cursor
        return await self._client.v1.billing_portal.configurations.list_async(_typed(params))

    async def create_portal_session(self, params: _Params) -> str:
        """Make a page of the portal and give its URL, which is as good as a password for some minutes."""
        call = self._client.v1.billing_portal.sessions.create_async(_typed(params))
        return str((await self._read("billing_portal.sessions.create", call)).object["url"])

    async def get_price(self, price_id: str) -> Read:
        """Read a price, active or not."""
        return await self._read("prices.get", self._client.v1.prices.retrieve_async(price_id))

    async def find_prices(self, lookup_keys: Sequence[str]) -> list[StripePrice]:
        """Give the prices that carry these lookup keys, active or not; keys that no price carries are left out."""
        wanted = list(dict.fromkeys(lookup_keys))
        found: list[StripePrice] = []
        for start in range(0, len(wanted), MAX_LOOKUP_KEYS_PER_CALL):
            found += await self._find_few_prices(wanted[start : start + MAX_LOOKUP_KEYS_PER_CALL])
        return found

    async def _find_few_prices(self, lookup_keys: list[str]) -> list[StripePrice]:
        found: list[StripePrice] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page, cursor = await self._call("prices.list", self._price_page(lookup_keys, cursor))
            found += page
            if cursor is None:
                return found
        raise StripeNoAnswer("prices.list", f"more than {MAX_PAGES} pages for {len(lookup_keys)} lookup keys")

    async def _price_page(self, lookup_keys: list[str], cursor: str | None) -> tuple[list[StripePrice], str | None]:
        """Give one page of prices, and the cursor of the next one if there is one."""
        params: _Params = {"lookup_keys": lookup_keys, "limit": PAGE_SIZE}
        if cursor is not None:
            params["starting_after"] = cursor
        page = await self._client.v1.prices.list_async(_typed(params))
        return [price_of(price) for price in page.data], page.data[-1].id if page.has_more and page.data else None

    async def _read(self, operation: str, call: Awaitable[stripe.StripeObject]) -> Read:
        async def read() -> Read:
            return read_of(operation, await call)

        return await self._call(operation, read())

    async def _call(self, operation: str, call: Awaitable[_Answer]) -> _Answer:
        return await bounded(operation, call, self._bounds)


def _typed(params: _Params) -> Any:
    """Pass a body that was rendered, and stored, before the call: the SDK's types cannot see into it."""
    return params


def _expanding(expand: Sequence[str]) -> Any:
    return {"expand": list(expand)} if expand else {}
