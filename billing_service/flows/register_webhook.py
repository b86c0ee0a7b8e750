"""Looks at the webhook endpoint at Stripe, makes it, or mends one that this deployment made."""

from __future__ import annotations

import uuid

from billing_service.domain.webhook_endpoint import (
    Endpoint,
    EndpointState,
    create_body,
    request_key,
    state_of,
    update_body,
)
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeDefinite, StripeKeyConflict
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
        """Make it; to be called where `look` has found none. Two at once make one.

        Raises:
            StripeCallError: Stripe refused, or was away.
        """
        body = create_body(self._url, API_VERSION, self._deployment)
        known = [one.endpoint_id for one in await self._endpoints.all(self._deployment)]
        key = request_key(self._deployment, body, sorted(known))
        try:
            made = await self._endpoints.create(body, self._deployment, key)
        except (StripeDefinite, StripeKeyConflict):
            if (await self.look()).endpoint is not None:
                raise  # it is there after all, and its secret is in the dashboard: a second one would help nobody
        else:
            if any(one.endpoint_id == made.endpoint.endpoint_id for one in await self._endpoints.all(self._deployment)):
                return made
        # For a day Stripe repeats to a key what it answered first, a failure and an endpoint that was deleted since too.
        return await self._endpoints.create(body, self._deployment, f"{key}/{uuid.uuid4()}")

    async def mend(self, endpoint: Endpoint) -> Endpoint:
        """Give one of ours the right events, and switch it on. Raises StripeCallError.

        Without an idempotency key: done twice it is the same, and repeated by Stripe it would be nothing.
        """
        return await self._endpoints.update(endpoint.endpoint_id, update_body(endpoint), self._deployment)
