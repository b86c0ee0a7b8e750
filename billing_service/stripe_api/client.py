"""Stripe's API as the flows use it: a handful of calls that take and give plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Self, TypeVar

import stripe

from billing_service.stripe_api.errors import StripeNoAnswer
from billing_service.stripe_api.listing import StripeListing
from billing_service.stripe_api.prices import StripePrice, price_of
from billing_service.stripe_api.sdk import Read, bounded, open_client, read_of

DEFAULT_TIMEOUT_S = 20.0  # Stripe answers a session within a second or two; the caller's deadline is mostly shorter
MAX_LOOKUP_KEYS_PER_CALL = 10  # Stripe's limit: https://docs.stripe.com/api/prices/list#list_prices-lookup_keys
PAGE_SIZE = 100  # Stripe's largest
MAX_PAGES = 10  # a lookup key names one price, so that one page holds them all; more means a confused answer

_Answer = TypeVar("_Answer")
_Params = dict[str, Any]


class StripeApi:
    """Stripe through its SDK. Every call ends in time, and raises nothing but a StripeCallError."""

    def __init__(self, api_key: str, api_base: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Take the secret or restricted key, the URL of the API, and the longest that one call may take."""
        self._timeout_s = timeout_s
        self._client, self._http_client = open_client(api_key, api_base, timeout_s=timeout_s)
        self.listing = StripeListing(self._client, timeout_s=timeout_s)

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
        return await bounded(operation, call, timeout_s=self._timeout_s)


def _typed(params: _Params) -> Any:
    """Pass a body that was rendered, and stored, before the call: the SDK's types cannot see into it."""
    return params


def _expanding(expand: Sequence[str]) -> Any:
    return {"expand": list(expand)} if expand else {}
