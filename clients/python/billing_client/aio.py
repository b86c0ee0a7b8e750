"""The client for asyncio: every method of the service, with a deadline, the token and typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

import grpc
from billing.v1 import billing_service_pb2_grpc
from billing.v1.billing_service_pb2 import ListPlansRequest, ListPlansResponse
from billing.v1.checkout_pb2 import (
    CreateCheckoutSessionRequest,
    CreateCheckoutSessionResponse,
    GetCheckoutSessionRequest,
    GetCheckoutSessionResponse,
)
from billing.v1.entitlement_pb2 import (
    BatchGetEntitlementsRequest,
    BatchGetEntitlementsResponse,
    CheckEntitlementRequest,
    CheckEntitlementResponse,
    GetEntitlementsRequest,
    GetEntitlementsResponse,
)
from billing.v1.subscription_pb2 import (
    CancelSubscriptionRequest,
    CancelSubscriptionResponse,
    CreatePortalSessionRequest,
    CreatePortalSessionResponse,
    PreviewSubscriptionUpdateRequest,
    PreviewSubscriptionUpdateResponse,
    ResumeSubscriptionRequest,
    ResumeSubscriptionResponse,
    UpdateSubscriptionRequest,
    UpdateSubscriptionResponse,
)
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse

from billing_client.errors import error_of
from billing_client.following import Following
from billing_client.options import Options

Request = TypeVar("Request")
Response = TypeVar("Response")


class BillingClient:
    """One client for a whole process: its connections are shared by every call. To be made inside a running loop.

    Every method takes the contract's request, raises `BillingError` (see `billing_client.errors`), ends within `timeout` (or
    the options' own), and is tried again by itself only where the contract says that this is safe.
    """

    def __init__(self, options: Options) -> None:
        """Connects at the first call.

        Raises:
            ValueError: the addresses cannot be used together.
            OSError: a certificate cannot be read.
        """
        self._options = options
        target, arguments = options.target, options.arguments()
        self._channel = (
            grpc.aio.insecure_channel(target, arguments)
            if options.tls is None
            else grpc.aio.secure_channel(target, options.tls.credentials(), arguments)
        )
        self._stub = billing_service_pb2_grpc.BillingServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connections; calls in flight are cancelled."""
        await self._channel.close()

    async def create_checkout_session(
        self, request: CreateCheckoutSessionRequest, *, timeout: timedelta | None = None
    ) -> CreateCheckoutSessionResponse:
        """Make a page to pay on. Keep the request id until an answer came: with it the call is safe to make again."""
        return await self._call(self._stub.CreateCheckoutSession, request, timeout)

    async def get_checkout_session(
        self, request: GetCheckoutSessionRequest, *, timeout: timedelta | None = None
    ) -> GetCheckoutSessionResponse:
        """Say where one attempt to buy stands."""
        return await self._call(self._stub.GetCheckoutSession, request, timeout)

    async def get_entitlements(
        self, request: GetEntitlementsRequest, *, timeout: timedelta | None = None
    ) -> GetEntitlementsResponse:
        """Say what a customer may use now."""
        return await self._call(self._stub.GetEntitlements, request, timeout)

    async def check_entitlement(
        self, request: CheckEntitlementRequest, *, timeout: timedelta | None = None
    ) -> CheckEntitlementResponse:
        """Say whether a customer may use one feature now, why, and what to buy otherwise."""
        return await self._call(self._stub.CheckEntitlement, request, timeout)

    async def batch_get_entitlements(
        self, request: BatchGetEntitlementsRequest, *, timeout: timedelta | None = None
    ) -> BatchGetEntitlementsResponse:
        """Say what several customers may use, in the order of the requests."""
        return await self._call(self._stub.BatchGetEntitlements, request, timeout)

    async def update_subscription(
        self, request: UpdateSubscriptionRequest, *, timeout: timedelta | None = None
    ) -> UpdateSubscriptionResponse:
        """Change plan, price or quantity, now or at the period's end. Keep the request id until an answer came."""
        return await self._call(self._stub.UpdateSubscription, request, timeout)

    async def preview_subscription_update(
        self, request: PreviewSubscriptionUpdateRequest, *, timeout: timedelta | None = None
    ) -> PreviewSubscriptionUpdateResponse:
        """Say what such a change would cost and change."""
        return await self._call(self._stub.PreviewSubscriptionUpdate, request, timeout)

    async def cancel_subscription(
        self, request: CancelSubscriptionRequest, *, timeout: timedelta | None = None
    ) -> CancelSubscriptionResponse:
        """End a subscription, now or with its period. Keep the request id until an answer came."""
        return await self._call(self._stub.CancelSubscription, request, timeout)

    async def resume_subscription(
        self, request: ResumeSubscriptionRequest, *, timeout: timedelta | None = None
    ) -> ResumeSubscriptionResponse:
        """Take a cancellation back, or end a pause. Keep the request id until an answer came."""
        return await self._call(self._stub.ResumeSubscription, request, timeout)

    async def create_portal_session(
        self, request: CreatePortalSessionRequest, *, timeout: timedelta | None = None
    ) -> CreatePortalSessionResponse:
        """Give Stripe's page for managing what was bought; its URL is as good as a password for some minutes."""
        return await self._call(self._stub.CreatePortalSession, request, timeout)

    async def watch_entitlements(
        self, request: WatchEntitlementsRequest | None = None
    ) -> AsyncIterator[WatchEntitlementsResponse]:
        """Tell what customers may use and each change, for ever: a stream that broke is gone on from its last cursor.

        After KIND_SNAPSHOT_BEGIN forget what was told before. Raises BillingError where coming again cannot help.
        """
        following = Following(request or WatchEntitlementsRequest())
        while True:
            try:
                stream = self._stub.WatchEntitlements(following.request(), metadata=self._options.metadata())
                async for message in stream:
                    following.heard(message)
                    yield message
                pause_s = following.pause_s()
            except grpc.aio.AioRpcError as raised:
                pause_s = following.pause_after(error_of(raised))
            await asyncio.sleep(pause_s)

    async def list_plans(
        self, request: ListPlansRequest | None = None, *, timeout: timedelta | None = None
    ) -> ListPlansResponse:
        """List the plans of the catalog."""
        return await self._call(self._stub.ListPlans, request or ListPlansRequest(), timeout)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout: timedelta | None,
    ) -> Response:
        seconds = (timeout or self._options.timeout).total_seconds()
        try:
            return await method(request, timeout=seconds, metadata=self._options.metadata())
        except grpc.aio.AioRpcError as raised:
            raise error_of(raised) from raised
