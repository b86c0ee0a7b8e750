"""The servicer for operators: request in, use case, response out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from billing.admin.v1 import (
    admin_service_pb2_grpc,
    customer_pb2,
    event_pb2,
    finding_pb2,
    grant_pb2,
    operator_request_pb2,
    reconcile_pb2,
)

from billing_service.flows.change_grants import ChangeGrants
from billing_service.flows.close_finding import CloseFinding
from billing_service.flows.describe_customer import DescribeCustomer
from billing_service.flows.discard_quarantined_event import DiscardQuarantinedEvent
from billing_service.flows.erase_customer import EraseCustomer
from billing_service.flows.link_stripe_customer import LinkStripeCustomer
from billing_service.flows.look_up import LookUp
from billing_service.flows.reconcile_on_request import ReconcileOnRequest
from billing_service.flows.replay_on_request import ReplayOnRequest
from billing_service.rpc import admin_requests, admin_responses, operators_record, pages
from billing_service.rpc.layers import Context


@dataclass(frozen=True)
class AdminFlows:
    """The use cases behind the operators' service."""

    describe_customer: DescribeCustomer
    look_up: LookUp
    change_grants: ChangeGrants
    link_stripe_customer: LinkStripeCustomer
    replay: ReplayOnRequest
    discard_quarantined_event: DiscardQuarantinedEvent
    reconcile: ReconcileOnRequest
    close_finding: CloseFinding
    erase_customer: EraseCustomer


class AdminServicer(admin_service_pb2_grpc.AdminServiceServicer):
    """billing.admin.v1.AdminService; the contract says what each method does."""

    def __init__(self, flows: AdminFlows, now: Callable[[], datetime]) -> None:
        """Take the use cases, and the one clock of the process."""
        self._flows = flows
        self._now = now

    async def GetCustomer(  # noqa: N802 - the contract's name
        self, request: customer_pb2.GetCustomerRequest, context: Context
    ) -> customer_pb2.GetCustomerResponse:
        """Say all that is known of a customer."""
        del context
        known = await self._flows.describe_customer(admin_requests.customer_id(request))
        return admin_responses.customer_response(known)

    async def ListEntitlementChanges(  # noqa: N802 - the contract's name
        self, request: customer_pb2.ListEntitlementChangesRequest, context: Context
    ) -> customer_pb2.ListEntitlementChangesResponse:
        """List what a customer had, and has since."""
        del context
        changes, place = await self._flows.look_up.changes(*admin_requests.changes_page(request))
        return admin_responses.changes_response(changes, pages.token(request, place))

    async def ListEvents(  # noqa: N802 - the contract's name
        self, request: event_pb2.ListEventsRequest, context: Context
    ) -> event_pb2.ListEventsResponse:
        """List recorded events."""
        del context
        found, place = await self._flows.look_up.events(*admin_requests.events_page(request))
        return event_pb2.ListEventsResponse(
            events=[admin_responses.event(one) for one in found], next_page_token=pages.token(request, place)
        )

    async def GetEvent(  # noqa: N802 - the contract's name
        self, request: event_pb2.GetEventRequest, context: Context
    ) -> event_pb2.GetEventResponse:
        """Give one event with its body."""
        del context
        return admin_responses.event_response(*await self._flows.look_up.event(admin_requests.event_id(request)))

    async def ListQuarantinedEvents(  # noqa: N802 - the contract's name
        self, request: event_pb2.ListQuarantinedEventsRequest, context: Context
    ) -> event_pb2.ListQuarantinedEventsResponse:
        """List the events in quarantine."""
        del context
        asked = admin_requests.quarantine_page(request)
        (found, place), counts = await self._flows.look_up.quarantined(*asked, discarded=request.include_discarded)
        return admin_responses.quarantine_response(found, pages.token(request, place), counts)

    async def ReplayEvents(  # noqa: N802 - the contract's name
        self, request: event_pb2.ReplayEventsRequest, context: Context
    ) -> event_pb2.ReplayEventsResponse:
        """Take events in quarantine in again."""
        del context
        page = await self._flows.replay(admin_requests.order(request), admin_requests.replay_wish(request))
        return admin_responses.replay_response(page, admin_requests.replay_token(request, page.last))

    async def DiscardQuarantinedEvent(  # noqa: N802 - the contract's name
        self, request: event_pb2.DiscardQuarantinedEventRequest, context: Context
    ) -> event_pb2.DiscardQuarantinedEventResponse:
        """Decide that an event in quarantine waits for nothing."""
        del context
        event_key = admin_requests.discarded_event(request)
        found = await self._flows.discard_quarantined_event(admin_requests.order(request), event_key)
        return event_pb2.DiscardQuarantinedEventResponse(quarantined_event=admin_responses.quarantined(found))

    async def CreateGrant(  # noqa: N802 - the contract's name
        self, request: grant_pb2.CreateGrantRequest, context: Context
    ) -> grant_pb2.CreateGrantResponse:
        """Give a customer a plan or a feature."""
        del context
        wish = admin_requests.grant_wish(request, self._now())
        grant, revision = await self._flows.change_grants.create(admin_requests.order(request), wish)
        return grant_pb2.CreateGrantResponse(grant=admin_responses.grant(grant), revision=revision)

    async def RevokeGrant(  # noqa: N802 - the contract's name
        self, request: grant_pb2.RevokeGrantRequest, context: Context
    ) -> grant_pb2.RevokeGrantResponse:
        """End a grant."""
        del context
        grant_id = admin_requests.revoked_grant(request)
        grant, revision = await self._flows.change_grants.revoke(admin_requests.order(request), grant_id)
        return grant_pb2.RevokeGrantResponse(grant=admin_responses.grant(grant), revision=revision)

    async def ListGrants(  # noqa: N802 - the contract's name
        self, request: grant_pb2.ListGrantsRequest, context: Context
    ) -> grant_pb2.ListGrantsResponse:
        """List grants."""
        del context
        asked = admin_requests.grants_page(request)
        found, place = await self._flows.look_up.grants(*asked, ended=request.include_ended)
        return grant_pb2.ListGrantsResponse(
            grants=[admin_responses.grant(one) for one in found], next_page_token=pages.token(request, place)
        )

    async def LinkStripeCustomer(  # noqa: N802 - the contract's name
        self, request: customer_pb2.LinkStripeCustomerRequest, context: Context
    ) -> customer_pb2.LinkStripeCustomerResponse:
        """Bind a Stripe customer by hand."""
        del context
        wish = admin_requests.link_wish(request)
        return admin_responses.link_response(
            await self._flows.link_stripe_customer(admin_requests.order(request), wish)
        )

    async def Reconcile(  # noqa: N802 - the contract's name
        self, request: reconcile_pb2.ReconcileRequest, context: Context
    ) -> AsyncIterator[reconcile_pb2.ReconcileResponse]:
        """Reconcile, and tell how far it has come."""
        del context
        wish = admin_requests.reconcile_wish(request, self._now())
        async with aclosing(self._flows.reconcile(admin_requests.order(request), wish)) as steps:
            async for step in steps:
                yield reconcile_pb2.ReconcileResponse(run=admin_responses.run(step.run), ended=step.ended)

    async def GetReconcileRun(  # noqa: N802 - the contract's name
        self, request: reconcile_pb2.GetReconcileRunRequest, context: Context
    ) -> reconcile_pb2.GetReconcileRunResponse:
        """Say how a run stands."""
        del context
        found = await self._flows.look_up.run(admin_requests.run_id(request))
        return reconcile_pb2.GetReconcileRunResponse(run=admin_responses.run(found.run, found))

    async def ListReconcileRuns(  # noqa: N802 - the contract's name
        self, request: reconcile_pb2.ListReconcileRunsRequest, context: Context
    ) -> reconcile_pb2.ListReconcileRunsResponse:
        """List runs."""
        del context
        found, place = await self._flows.look_up.runs(*admin_requests.runs_page(request))
        return admin_responses.runs_response(found, pages.token(request, place))

    async def ListFindings(  # noqa: N802 - the contract's name
        self, request: finding_pb2.ListFindingsRequest, context: Context
    ) -> finding_pb2.ListFindingsResponse:
        """List findings."""
        del context
        asked = admin_requests.findings_page(request)
        found, place = await self._flows.look_up.findings(*asked, closed=request.include_closed)
        return finding_pb2.ListFindingsResponse(
            findings=[admin_responses.finding(one) for one in found], next_page_token=pages.token(request, place)
        )

    async def CloseFinding(  # noqa: N802 - the contract's name
        self, request: finding_pb2.CloseFindingRequest, context: Context
    ) -> finding_pb2.CloseFindingResponse:
        """Close a finding."""
        del context
        kind, subject = admin_requests.closed_finding(request)
        found = await self._flows.close_finding(admin_requests.order(request), kind, subject)
        return finding_pb2.CloseFindingResponse(finding=admin_responses.finding(found))

    async def EraseCustomer(  # noqa: N802 - the contract's name
        self, request: customer_pb2.EraseCustomerRequest, context: Context
    ) -> customer_pb2.EraseCustomerResponse:
        """Take the personal data of a customer out."""
        del context
        customer_id = admin_requests.erased_customer(request)
        erasure = await self._flows.erase_customer(admin_requests.order(request), customer_id)
        return admin_responses.erasure_response(erasure)

    async def ListOperatorRequests(  # noqa: N802 - the contract's name
        self, request: operator_request_pb2.ListOperatorRequestsRequest, context: Context
    ) -> operator_request_pb2.ListOperatorRequestsResponse:
        """List what operators did."""
        del context
        found, place = await self._flows.look_up.operators_record(*operators_record.page_asked(request))
        return operators_record.page_told(found, pages.token(request, place))
