"""Calls to the billing service: a deadline on each, and its errors as one exception that carries the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from billing.v1 import billing_service_pb2, checkout_pb2, entitlement_pb2, plan_pb2, subscription_pb2
from billing.v1.billing_service_pb2_grpc import BillingServiceStub
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # comes without types

from sandbox.channel import credentials

if TYPE_CHECKING:
    from billing.v1.billing_service_pb2_grpc import BillingServiceAsyncStub  # a name of the type stubs alone

_READ_DEADLINE_S = 5.0
_PURCHASE_DEADLINE_S = 10.0  # the service waits for a purchase that was just made
_LOOK_DEADLINE_S = 1.5  # for a page that looks again by itself
_CHECKOUT_DEADLINE_S = 20.0  # it waits for Stripe
_ERROR_DOMAIN = "billing.v1"

Answer = TypeVar("Answer")


class BillingError(Exception):
    """The billing service refused or failed; `reason` is a name of billing.v1.ErrorReason, or empty when it gave none."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        """Take the canonical code and the reason."""
        self.code = code
        self.reason = reason
        super().__init__(f"{code.name} {reason}".strip())

    @classmethod
    def invalid_fields(cls) -> Self:
        """Give what the service answers to a form that does not hold, for one that is not worth asking about."""
        return cls(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


@dataclass(frozen=True)
class Order:
    """What a person asked to buy. `request_id` came with the form, so that a double click is one order."""

    request_id: str
    customer_id: str
    plan_key: str
    price_key: str | None
    quantity: int

    def again(self, request_id: str) -> Self:
        """Give the same order as a new request."""
        return replace(self, request_id=request_id)


@dataclass(frozen=True)
class Change:
    """What a person asked of a subscription of theirs. `request_id` came with the form, as an order's."""

    request_id: str
    customer_id: str
    subscription_id: str


def error_of(error: grpc.RpcError) -> BillingError:
    """Read the status of a failed call: its code, and the reason in its google.rpc.ErrorInfo where there is one."""
    code = error.code() if isinstance(error, grpc.aio.AioRpcError | grpc.Call) else grpc.StatusCode.UNKNOWN
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the code: not from our service
        status = None
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == _ERROR_DOMAIN:
            return BillingError(code, info.reason)
    return BillingError(code, "")


class Billing:
    """The calls of billing.v1.BillingService, in the shape that the pages need."""

    def __init__(self, stub: BillingServiceAsyncStub) -> None:
        """Take the stub over an open channel."""
        self._stub = stub

    async def plans(self) -> list[plan_pb2.Plan]:
        """Give the plans of the catalog in its order.

        Raises:
            BillingError: the service does not answer.
        """
        answer = await _answer(self._stub.ListPlans(billing_service_pb2.ListPlansRequest(), timeout=_READ_DEADLINE_S))
        return list(answer.plans)

    async def entitlements(self, customer_id: str) -> entitlement_pb2.GetEntitlementsResponse:
        """Say what a customer may use now.

        Raises:
            BillingError: the service does not answer, or refuses the id.
        """
        request = entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)
        return await _answer(self._stub.GetEntitlements(request, timeout=_READ_DEADLINE_S))

    async def purchase(
        self, customer_id: str, checkout_session_id: str, *, patient: bool
    ) -> entitlement_pb2.GetEntitlementsResponse | None:
        """Say what a customer may use once a purchase of theirs is settled; None when they have made no such purchase.

        Raises:
            BillingError: the service does not answer.
        """
        request = entitlement_pb2.GetEntitlementsRequest(
            customer_id=customer_id, after_checkout_session_id=checkout_session_id
        )
        timeout = _PURCHASE_DEADLINE_S if patient else _LOOK_DEADLINE_S
        try:
            return await _answer(self._stub.GetEntitlements(request, timeout=timeout))
        except BillingError as error:
            if error.code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}:
                return None
            raise

    async def checkout(self, order: Order, *, success_url: str, cancel_url: str) -> checkout_pb2.CheckoutSession:
        """Give the page on which this order can be paid.

        Raises:
            BillingError: it cannot be bought, or not now; see the reason.
        """
        request = checkout_pb2.CreateCheckoutSessionRequest(
            request_id=order.request_id,
            customer_id=order.customer_id,
            plan_key=order.plan_key,
            price_key=order.price_key,
            quantity=order.quantity,
            success_url=success_url,
            cancel_url=cancel_url,
        )
        answer = await _answer(self._stub.CreateCheckoutSession(request, timeout=_CHECKOUT_DEADLINE_S))
        return answer.checkout_session

    async def plan_key_of(self, checkout_session_id: str) -> str:
        """Say which plan an attempt to buy is for.

        Raises:
            BillingError: the service does not answer.
        """
        request = checkout_pb2.GetCheckoutSessionRequest(checkout_session_id=checkout_session_id)
        answer = await _answer(self._stub.GetCheckoutSession(request, timeout=_READ_DEADLINE_S))
        return answer.checkout_session.plan_key

    async def update(
        self, change: Change, plan_key: str | None, price_key: str | None, quantity: int | None, *, now: bool
    ) -> None:
        """Change a subscription's plan, now or when its period ends.

        Raises:
            BillingError: it cannot be changed so, or not now; see the reason. So do those below.
        """
        timing = (
            subscription_pb2.UPDATE_TIMING_NOW_WITH_PRORATION if now else subscription_pb2.UPDATE_TIMING_AT_PERIOD_END
        )
        request = subscription_pb2.UpdateSubscriptionRequest(
            request_id=change.request_id,
            customer_id=change.customer_id,
            stripe_subscription_id=change.subscription_id,
            plan_key=plan_key,
            price_key=price_key,
            quantity=quantity,
            timing=timing,
        )
        await _answer(self._stub.UpdateSubscription(request, timeout=_CHECKOUT_DEADLINE_S))

    async def cancel(self, change: Change) -> None:
        """End a subscription with the period that is paid."""
        request = subscription_pb2.CancelSubscriptionRequest(
            request_id=change.request_id,
            customer_id=change.customer_id,
            stripe_subscription_id=change.subscription_id,
            timing=subscription_pb2.CANCEL_TIMING_AT_PERIOD_END,
        )
        await _answer(self._stub.CancelSubscription(request, timeout=_CHECKOUT_DEADLINE_S))

    async def resume(self, change: Change) -> None:
        """Take a cancellation back."""
        request = subscription_pb2.ResumeSubscriptionRequest(
            request_id=change.request_id,
            customer_id=change.customer_id,
            stripe_subscription_id=change.subscription_id,
        )
        await _answer(self._stub.ResumeSubscription(request, timeout=_CHECKOUT_DEADLINE_S))

    async def portal(self, customer_id: str, return_url: str) -> str:
        """Give the page of Stripe's on which a person manages what they have bought."""
        request = subscription_pb2.CreatePortalSessionRequest(customer_id=customer_id, return_url=return_url)
        return (await _answer(self._stub.CreatePortalSession(request, timeout=_CHECKOUT_DEADLINE_S))).url


@asynccontextmanager
async def open_billing(target: str, token: str | None = None) -> AsyncIterator[Billing]:
    """Open a channel to the billing service for as long as the context lasts; it connects again by itself."""
    options = [("grpc.max_reconnect_backoff_ms", 2_000)]
    opened = (
        grpc.aio.insecure_channel(target, options)
        if token is None
        else grpc.aio.secure_channel(target, credentials(token), options)
    )
    async with opened as channel:
        yield Billing(BillingServiceStub(channel))


async def _answer(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
