"""Stripe's webhook endpoints. The signing secret is in the answer that makes one, and in no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import stripe

from billing_service.domain.observation import METADATA_DEPLOYMENT
from billing_service.domain.webhook_endpoint import Endpoint
from billing_service.stripe_api.errors import StripeNoAnswer
from billing_service.stripe_api.listing import StripeListing
from billing_service.stripe_api.sdk import Bounds, Read, bounded, read_of


@dataclass(frozen=True)
class MadeEndpoint:
    """A new endpoint, and what signs its events."""

    endpoint: Endpoint
    secret: str = field(repr=False)  # "whsec_..."


class StripeWebhookEndpoints:
    """The webhook endpoints of an account; Stripe allows 16."""

    def __init__(self, client: stripe.StripeClient, bounds: Bounds, listing: StripeListing) -> None:
        """Share the client with everything else that calls Stripe."""
        self._service = client.v1.webhook_endpoints
        self._bounds = bounds
        self._listing = listing

    async def all(self, deployment: str) -> list[Endpoint]:
        """Give every endpoint of the account. Raises StripeCallError."""
        pages = self._listing.pages("webhook_endpoints.list", "/v1/webhook_endpoints", {})
        return [endpoint_of(body, deployment) async for page in pages for body in page.data]

    async def create(self, body: Mapping[str, Any], deployment: str, idempotency_key: str) -> MadeEndpoint:
        """Make an endpoint. Raises StripeCallError."""
        typed: Any = dict(body)
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}

        async def send() -> Read:
            return read_of("webhook_endpoints.create", await self._service.create_async(typed, options))

        made = (await bounded("webhook_endpoints.create", send(), self._bounds)).object
        secret = made.get("secret")
        if not isinstance(secret, str) or not secret:
            raise StripeNoAnswer("webhook_endpoints.create", "an answer without a signing secret")
        return MadeEndpoint(endpoint_of(made, deployment), secret)

    async def update(self, endpoint_id: str, body: Mapping[str, Any], deployment: str) -> Endpoint:
        """Change an endpoint. Raises StripeCallError."""
        typed: Any = dict(body)

        async def send() -> Read:
            return read_of("webhook_endpoints.update", await self._service.update_async(endpoint_id, typed))

        return endpoint_of((await bounded("webhook_endpoints.update", send(), self._bounds)).object, deployment)


def endpoint_of(body: Mapping[str, Any], deployment: str) -> Endpoint:
    """Give an endpoint from Stripe's JSON.

    Raises:
        StripeNoAnswer: it has no such shape.
    """
    try:
        return Endpoint(
            endpoint_id=body["id"],
            url=body["url"],
            enabled=body["status"] == "enabled",
            api_version=body.get("api_version"),
            types=frozenset(body["enabled_events"]),
            livemode=body["livemode"],
            ours=(body.get("metadata") or {}).get(METADATA_DEPLOYMENT) == deployment,
        )
    except (KeyError, TypeError):
        raise StripeNoAnswer("webhook_endpoints", "an endpoint of an unknown shape") from None
