"""The client for threads: every method of the service, with a deadline, the token and typed errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
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


class SyncBillingClient:
    """One client for a whole process: its connections are shared by every call. Threads may share it.

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
            grpc.insecure_channel(target, arguments)
            if options.tls is None
            else grpc.secure_channel(target, options.tls.credentials(), arguments)
        )
        self._stub = billing_service_pb2_grpc.BillingServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; calls in flight are cancelled."""
        self._channel.close()

    def create_checkout_session(
        self, request: CreateCheckoutSessionRequest, *, timeout: timedelta | None = None
    ) -> CreateCheckoutSessionResponse:
        """Make a page to pay on. Keep the request id until an answer came: with it the call is safe to make again."""
        return self._call(self._stub.CreateCheckoutSession, request, timeout)

    def get_checkout_session(
        self, request: GetCheckoutSessionRequest, *, timeout: timedelta | None = None
    ) -> GetCheckoutSessionResponse:
        """Say where one attempt to buy stands."""
        return self._call(self._stub.GetCheckoutSession, request, timeout)

    def get_entitlements(
        self, request: GetEntitlementsRequest, *, timeout: timedelta | None = None
    ) -> GetEntitlementsResponse:
        """Say what a customer may use now."""
        return self._call(self._stub.GetEntitlements, request, timeout)

    def check_entitlement(
        self, request: CheckEntitlementRequest, *, timeout: timedelta | None = None
    ) -> CheckEntitlementResponse:
        """Say whether a customer may use one feature now, why, and what to buy otherwise."""
        return self._call(self._stub.CheckEntitlement, request, timeout)

    def batch_get_entitlements(
        self, request: BatchGetEntitlementsRequest, *, timeout: timedelta | None = None
    ) -> BatchGetEntitlementsResponse:
        """Say what several customers may use, in the order of the requests."""
        return self._call(self._stub.BatchGetEntitlements, request, timeout)

    def update_subscription(
        self, request: UpdateSubscriptionRequest, *, timeout: timedelta | None = None
    ) -> UpdateSubscriptionResponse:
        """Change plan, price or quantity, now or at the period's end. Keep the request id until an answer came."""
        return self._call(self._stub.UpdateSubscription, request, timeout)

    def preview_subscription_update(
        self, request: PreviewSubscriptionUpdateRequest, *, timeout: timedelta | None = None
    ) -> PreviewSubscriptionUpdateResponse:
        """Say what such a change would cost and change."""
        return self._call(self._stub.PreviewSubscriptionUpdate, request, timeout)

    def cancel_subscription(
        self, request: CancelSubscriptionRequest, *, timeout: timedelta | None = None
    ) -> CancelSubscriptionResponse:
        """End a subscription, now or with its period. Keep the request id until an answer came."""
        return self._call(self._stub.CancelSubscription, request, timeout)

    def resume_subscription(
        self, request: ResumeSubscriptionRequest, *, timeout: timedelta | None = None
    ) -> ResumeSubscriptionResponse:
        """Take a cancellation back, or end a pause. Keep the request id until an answer came."""
        return self._call(self._stub.ResumeSubscription, request, timeout)

    def create_portal_session(
        self, request: CreatePortalSessionRequest, *, timeout: timedelta | None = None
    ) -> CreatePortalSessionResponse:
        """Give Stripe's page for managing what was bought; its URL is as good as a password for some minutes."""
        return self._call(self._stub.CreatePortalSession, request, timeout)

    def watch_entitlements(
        self, request: WatchEntitlementsRequest | None = None
    ) -> Iterator[WatchEntitlementsResponse]:
        """Tell what customers may use and each change, for ever: a stream that broke is gone on from its last cursor.

        After KIND_SNAPSHOT_BEGIN forget what was told before. Raises BillingError where coming again cannot help.
        """
        following = Following(request or WatchEntitlementsRequest())
        while True:
            try:
                stream = self._stub.WatchEntitlements(following.request(), metadata=self._options.metadata())
                for message in stream:
                    following.heard(message)
                    yield message
                pause_s = following.pause_s()
            except grpc.RpcError as raised:
                pause_s = following.pause_after(error_of(raised))
            time.sleep(pause_s)

    def list_plans(
        self, request: ListPlansRequest | None = None, *, timeout: timedelta | None = None
    ) -> ListPlansResponse:
        """List the plans of the catalog."""
        return self._call(self._stub.ListPlans, request or ListPlansRequest(), timeout)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout: timedelta | None,
    ) -> Response:
        seconds = (timeout or self._options.timeout).total_seconds()
        try:
            return method(request, timeout=seconds, metadata=self._options.metadata())
        except grpc.RpcError as raised:
            raise error_of(raised) from raised
