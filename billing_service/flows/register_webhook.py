"""Looks at the webhook endpoint at Stripe, makes it, or mends one that this deployment made."""

from __future__ import annotations

from billing_service.domain.webhook_endpoint import (
    Endpoint,
    EndpointState,
    create_body,
    request_key,
    state_of,
    update_body,
)
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.sdk import API_VERSION
from billing_service.stripe_api.webhook_endpoints import MadeEndpoint


class RegisterWebhook:
    """The endpoint at one URL, for events in the version that this program reads."""

    def __init__(self, stripe: StripeApi, url: str, deployment: str) -> None:
        """`deployment` marks what is made."""
        self._endpoints = stripe.webhook_endpoints
        self._url = url
        self._deployment = deployment

    async def look(self) -> EndpointState:
        """Say what there is; changes nothing. Raises StripeCallError."""
        return state_of(await self._endpoints.all(self._deployment), self._url, API_VERSION)

    async def create(self) -> MadeEndpoint:
        """Make it; to be called where `look` has found none. Two at once make one. Raises StripeCallError."""
        known = sorted(one.endpoint_id for one in await self._endpoints.all(self._deployment))
        body = create_body(self._url, API_VERSION, self._deployment)
        key = request_key(self._deployment, "create", body, known)
        return await self._endpoints.create(body, self._deployment, key)

    async def mend(self, endpoint: Endpoint) -> Endpoint:
        """Give one of ours the right events, and switch it on. Raises StripeCallError."""
        body = update_body(endpoint)
        state = [sorted(endpoint.types), endpoint.enabled]
        key = request_key(self._deployment, endpoint.endpoint_id, body, state)
        return await self._endpoints.update(endpoint.endpoint_id, body, self._deployment, key)
