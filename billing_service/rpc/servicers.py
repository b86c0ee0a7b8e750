"""The servicers: request in, use case, response out. Errors are raised; `interceptors` puts them on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from dataclasses import dataclass

from billing.internal.v1 import fulfillment_service_pb2, fulfillment_service_pb2_grpc
from billing.v1 import (
    billing_service_pb2,
    billing_service_pb2_grpc,
    checkout_pb2,
    entitlement_pb2,
    subscription_pb2,
    watch_pb2,
)

from billing_service.flows.change_subscription import ChangeSubscription
from billing_service.flows.check_entitlement import CheckEntitlement
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.create_portal_session import CreatePortalSession
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.get_checkout_session import GetCheckoutSession
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.list_plans import ListPlans
from billing_service.flows.preview_subscription_update import PreviewSubscriptionUpdate
from billing_service.flows.watch_entitlements import WatchEntitlements
from billing_service.rpc import (
    entitlement_requests,
    entitlement_responses,
    requests,
    responses,
    subscription_requests,
    subscription_responses,
)
from billing_service.rpc.layers import Context


@dataclass(frozen=True)
class BillingFlows:
    """The use cases behind the public service."""

    create_checkout_session: CreateCheckoutSession
    get_checkout_session: GetCheckoutSession
    get_entitlements: GetEntitlements
    check_entitlement: CheckEntitlement
    list_plans: ListPlans
    watch_entitlements: WatchEntitlements
    change_subscription: ChangeSubscription
    preview_subscription_update: PreviewSubscriptionUpdate
    create_portal_session: CreatePortalSession


class BillingServicer(billing_service_pb2_grpc.BillingServiceServicer):
    """billing.v1.BillingService; the contract says what each method does."""

    def __init__(self, flows: BillingFlows, redirect_hosts: Collection[str] = ()) -> None:
        """Take the use cases, and the hosts to which people may be sent back; any where there are none."""
        self._flows = flows
        self._redirect_hosts = redirect_hosts

    async def CreateCheckoutSession(  # noqa: N802 - the contract's name
        self, request: checkout_pb2.CreateCheckoutSessionRequest, context: Context
    ) -> checkout_pb2.CreateCheckoutSessionResponse:
        """Make a page to pay on, or give the one that is open."""
        del context
        created = await self._flows.create_checkout_session(requests.checkout_request(request, self._redirect_hosts))
        return responses.create_checkout_session_response(created)

    async def GetCheckoutSession(  # noqa: N802 - the contract's name
        self, request: checkout_pb2.GetCheckoutSessionRequest, context: Context
    ) -> checkout_pb2.GetCheckoutSessionResponse:
        """Say where one attempt to buy stands."""
        del context
        session = await self._flows.get_checkout_session(requests.checkout_session_id(request))
        return responses.get_checkout_session_response(session)

    async def GetEntitlements(  # type: ignore[override]  # noqa: N802 - the contract's name; `layers` lets ready bytes pass
        self, request: entitlement_pb2.GetEntitlementsRequest, context: Context
    ) -> bytes:
        """Say what a customer may use now: a GetEntitlementsResponse, written."""
        del context
        query = entitlement_requests.entitlements_query(request)
        return await self._flows.get_entitlements.into(query, entitlement_responses.read_wire)

    async def CheckEntitlement(  # noqa: N802 - the contract's name
        self, request: entitlement_pb2.CheckEntitlementRequest, context: Context
    ) -> entitlement_pb2.CheckEntitlementResponse:
        """Say whether a customer may use one feature now."""
        del context
        query = entitlement_requests.check_query(request)
        check = await self._flows.check_entitlement(query.customer_id, query.feature_key, query.min_revision)
        return entitlement_responses.check_response(check)

    async def BatchGetEntitlements(  # noqa: N802 - the contract's name
        self, request: entitlement_pb2.BatchGetEntitlementsRequest, context: Context
    ) -> entitlement_pb2.BatchGetEntitlementsResponse:
        """Say what several customers may use."""
        del context
        answers = await self._flows.get_entitlements.many(entitlement_requests.batch_query(request))
        return entitlement_responses.batch_response(answers)

    async def UpdateSubscription(  # noqa: N802 - the contract's name
        self, request: subscription_pb2.UpdateSubscriptionRequest, context: Context
    ) -> subscription_pb2.UpdateSubscriptionResponse:
        """Change plan, price or quantity."""
        del context
        changed = await self._flows.change_subscription(subscription_requests.update_request(request))
        return subscription_responses.update_subscription_response(changed)

    async def PreviewSubscriptionUpdate(  # noqa: N802 - the contract's name
        self, request: subscription_pb2.PreviewSubscriptionUpdateRequest, context: Context
    ) -> subscription_pb2.PreviewSubscriptionUpdateResponse:
        """Say what a change would cost and change."""
        del context
        preview = await self._flows.preview_subscription_update(subscription_requests.preview_request(request))
        return subscription_responses.preview_subscription_update_response(preview)

    async def CancelSubscription(  # noqa: N802 - the contract's name
        self, request: subscription_pb2.CancelSubscriptionRequest, context: Context
    ) -> subscription_pb2.CancelSubscriptionResponse:
        """End a subscription."""
        del context
        changed = await self._flows.change_subscription(subscription_requests.cancel_request(request))
        return subscription_responses.cancel_subscription_response(changed)

    async def ResumeSubscription(  # noqa: N802 - the contract's name
        self, request: subscription_pb2.ResumeSubscriptionRequest, context: Context
    ) -> subscription_pb2.ResumeSubscriptionResponse:
        """Take back a cancellation."""
        del context
        changed = await self._flows.change_subscription(subscription_requests.resume_request(request))
        return subscription_responses.resume_subscription_response(changed)

    async def CreatePortalSession(  # noqa: N802 - the contract's name
        self, request: subscription_pb2.CreatePortalSessionRequest, context: Context
    ) -> subscription_pb2.CreatePortalSessionResponse:
        """Make a page on which a person manages what they have bought."""
        del context
        url = await self._flows.create_portal_session(
            subscription_requests.portal_request(request, self._redirect_hosts)
        )
        return subscription_pb2.CreatePortalSessionResponse(url=url)

    async def WatchEntitlements(  # noqa: N802 - the contract's name
        self, request: watch_pb2.WatchEntitlementsRequest, context: Context
    ) -> AsyncIterator[watch_pb2.WatchEntitlementsResponse]:
        """Tell what customers may use, and each change."""
        del context
        customer_ids, cursor = requests.watch_request(request)
        async with aclosing(self._flows.watch_entitlements(customer_ids, cursor)) as messages:
            async for message in messages:
                yield responses.watch_response(message)

    async def ListPlans(  # noqa: N802 - the contract's name; gRPC awaits it
        self, request: billing_service_pb2.ListPlansRequest, context: Context
    ) -> billing_service_pb2.ListPlansResponse:
        """List the plans of the catalog."""
        del request, context
        return responses.list_plans_response(self._flows.list_plans())


class FulfillmentServicer(fulfillment_service_pb2_grpc.FulfillmentServiceServicer):
    """billing.internal.v1.FulfillmentService; the contract says what its method does."""

    def __init__(self, fulfill: Fulfill) -> None:
        self._fulfill = fulfill

    async def Fulfill(  # noqa: N802 - the contract's name
        self, request: fulfillment_service_pb2.FulfillRequest, context: Context
    ) -> fulfillment_service_pb2.FulfillResponse:
        """Apply a batch of verified events."""
        del context
        results = await self._fulfill(requests.event_payloads(request), requests.traceparents(request))
        return responses.fulfill_response(results)
