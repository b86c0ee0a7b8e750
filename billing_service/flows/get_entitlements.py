"""Answers one question about a customer's entitlements, and many at once: now, after a purchase, or in the past."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from billing_service.domain.checkout_outcome import CheckoutOutcome
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.entitlement_query import EntitlementsQuery, only, require_features
from billing_service.domain.errors import BillingError
from billing_service.flows.await_checkout import AwaitCheckout
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.read_past import ReadPast

_Made = TypeVar("_Made")
_Made_co = TypeVar("_Made_co", covariant=True)
Answer = tuple[Entitlements, CheckoutOutcome | None]


class Make(Protocol[_Made_co]):
    """What makes something of an answer; most have no purchase to tell of."""

    def __call__(self, entitlements: Entitlements, outcome: CheckoutOutcome | None = None, /) -> _Made_co:
        """Make it."""
        ...


class GetEntitlements:
    """Chooses how to read by what is asked."""

    def __init__(self, prices: Prices, read: ReadEntitlements, past: ReadPast, after: AwaitCheckout) -> None:
        """Take the ways to read."""
        self._prices = prices
        self._read = read
        self._past = past
        self._after = after

    async def __call__(self, query: EntitlementsQuery) -> Answer:
        """Give the answer, and what has come of the purchase where one was asked about.

        Raises:
            FeatureNotFoundError: a feature is not of the catalog (of then, for the past).
            CheckoutSessionNotFoundError: no session of this customer has this id.
            RevisionNotReachedError: the customer stays below `min_revision`.
            AsOfNotKeptError, InvalidFieldsError: `as_of` is too early, or in the future.
            OverloadedError: too many wait for purchases already.
            DatabaseUnavailableError: it does not answer.
        """
        keys = query.feature_keys
        if query.as_of is not None:
            answer, catalog = await self._past(query.customer_id, query.as_of)
            require_features(keys, catalog.features)
            return only(answer, keys), None
        if keys:
            require_features(keys, self._prices.index.catalog.features)
        if query.after_checkout_session_id is not None:
            settled = await self._after(query.customer_id, query.after_checkout_session_id)
            answer = settled.entitlements
            if answer.revision < query.min_revision:
                answer = await self._read(query.customer_id, query.min_revision)
            return only(answer, keys), settled.outcome
        return only(await self._read(query.customer_id, query.min_revision), keys), None

    def into(self, query: EntitlementsQuery, make: Make[_Made]) -> Awaitable[_Made]:
        """Answer, and give what `make` makes of the answer. Raises as the call does."""
        return self._read.into(query.customer_id, make) if query.is_plain else self._made(query, make)

    async def _made(self, query: EntitlementsQuery, make: Make[_Made]) -> _Made:
        return make(*await self(query))

    async def many(self, queries: Sequence[EntitlementsQuery]) -> list[Entitlements]:
        """Answer several, in their order; those of now in one query. How many there may be is checked before.

        Raises:
            BillingError: as one alone does; of the first that fails, with its index in the metadata.
        """
        answers = await asyncio.gather(*(self(query) for query in queries), return_exceptions=True)
        found: list[Entitlements] = []
        for index, answer in enumerate(answers):
            if isinstance(answer, BillingError):
                raise answer.with_metadata(request_index=str(index))
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer[0])
        return found
