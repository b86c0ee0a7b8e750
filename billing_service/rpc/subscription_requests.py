"""Requests about subscriptions: protobuf -> domain, every rule of the contract's comments checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from billing.v1 import subscription_pb2

from billing_service.domain.portal import PortalFlow, PortalRequest
from billing_service.domain.subscription import ChangeRequest, Operation, PreviewRequest, Wanted
from billing_service.rpc import field_rules
from billing_service.rpc.requests import Problems, refuse

_Update = subscription_pb2.UpdateSubscriptionRequest | subscription_pb2.PreviewSubscriptionUpdateRequest
_Change = (
    subscription_pb2.UpdateSubscriptionRequest
    | subscription_pb2.CancelSubscriptionRequest
    | subscription_pb2.ResumeSubscriptionRequest
)

UPDATE_TIMINGS: Final[Mapping[subscription_pb2.UpdateTiming.ValueType, Operation]] = {
    subscription_pb2.UPDATE_TIMING_NOW_WITH_PRORATION: Operation.UPDATE_NOW,
    subscription_pb2.UPDATE_TIMING_AT_PERIOD_END: Operation.UPDATE_AT_PERIOD_END,
}
CANCEL_TIMINGS: Final[Mapping[subscription_pb2.CancelTiming.ValueType, Operation]] = {
    subscription_pb2.CANCEL_TIMING_AT_PERIOD_END: Operation.CANCEL_AT_PERIOD_END,
    subscription_pb2.CANCEL_TIMING_NOW: Operation.CANCEL_NOW,
}
PORTAL_FLOWS: Final[Mapping[subscription_pb2.PortalFlow.ValueType, PortalFlow]] = {
    subscription_pb2.PORTAL_FLOW_UNSPECIFIED: PortalFlow.MANAGE,
    subscription_pb2.PORTAL_FLOW_MANAGE: PortalFlow.MANAGE,
    subscription_pb2.PORTAL_FLOW_UPDATE_PLAN: PortalFlow.UPDATE_PLAN,
    subscription_pb2.PORTAL_FLOW_CANCEL: PortalFlow.CANCEL,
    subscription_pb2.PORTAL_FLOW_UPDATE_PAYMENT_METHOD: PortalFlow.UPDATE_PAYMENT_METHOD,
}
_OF_ONE_SUBSCRIPTION = frozenset({PortalFlow.UPDATE_PLAN, PortalFlow.CANCEL})


def update_request(message: subscription_pb2.UpdateSubscriptionRequest) -> ChangeRequest:
    """Read an UpdateSubscriptionRequest.

    Raises:
        InvalidFieldsError: with every field that breaks a rule of the contract; so do the functions below.
    """
    refuse(_update_problems(message))
    return ChangeRequest(
        message.request_id,
        message.customer_id,
        message.stripe_subscription_id,
        UPDATE_TIMINGS[message.timing],
        _wanted(message),
    )


def preview_request(message: subscription_pb2.PreviewSubscriptionUpdateRequest) -> PreviewRequest:
    """Read a PreviewSubscriptionUpdateRequest."""
    refuse(_wanted_problems(message))
    at_period_end = UPDATE_TIMINGS[message.timing] is Operation.UPDATE_AT_PERIOD_END
    return PreviewRequest(message.customer_id, message.stripe_subscription_id, at_period_end, _wanted(message))


def cancel_request(message: subscription_pb2.CancelSubscriptionRequest) -> ChangeRequest:
    """Read a CancelSubscriptionRequest."""
    refuse(_cancel_problems(message))
    return ChangeRequest(
        message.request_id, message.customer_id, message.stripe_subscription_id, CANCEL_TIMINGS[message.timing]
    )


def resume_request(message: subscription_pb2.ResumeSubscriptionRequest) -> ChangeRequest:
    """Read a ResumeSubscriptionRequest."""
    refuse(_change_problems(message))
    return ChangeRequest(message.request_id, message.customer_id, message.stripe_subscription_id, Operation.RESUME)


def portal_request(
    message: subscription_pb2.CreatePortalSessionRequest, redirect_hosts: Collection[str] = ()
) -> PortalRequest:
    """Read a CreatePortalSessionRequest. It must lead back to one of `redirect_hosts`; to any host where there are none."""
    refuse(_portal_problems(message, redirect_hosts))
    named = message.stripe_subscription_id if message.HasField("stripe_subscription_id") else None
    return PortalRequest(message.customer_id, message.return_url, PORTAL_FLOWS[message.flow], named)


def _wanted(message: _Update) -> Wanted:
    return Wanted(
        plan_key=message.plan_key if message.HasField("plan_key") else None,
        price_key=message.price_key if message.HasField("price_key") else None,
        quantity=message.quantity if message.HasField("quantity") else None,
    )


def _update_problems(message: subscription_pb2.UpdateSubscriptionRequest) -> Problems:
    yield "request_id", field_rules.request_id_problem(message.request_id)
    yield from _wanted_problems(message)


def _wanted_problems(message: _Update) -> Problems:
    yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    yield "stripe_subscription_id", field_rules.subscription_id_problem(message.stripe_subscription_id)
    if message.HasField("plan_key"):
        yield "plan_key", field_rules.key_problem(message.plan_key)
    if message.HasField("price_key"):
        yield "price_key", field_rules.key_problem(message.price_key)
    if message.HasField("quantity"):
        yield "quantity", field_rules.quantity_problem(message.quantity)
    if _wanted(message) == Wanted(None, None, None):
        yield "plan_key", "is required where there is neither a price_key nor a quantity"
    yield "timing", None if message.timing in UPDATE_TIMINGS else "is required"


def _cancel_problems(message: subscription_pb2.CancelSubscriptionRequest) -> Problems:
    yield from _change_problems(message)
    yield "timing", None if message.timing in CANCEL_TIMINGS else "is required"


def _change_problems(message: _Change) -> Problems:
    yield "request_id", field_rules.request_id_problem(message.request_id)
    yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    yield "stripe_subscription_id", field_rules.subscription_id_problem(message.stripe_subscription_id)


def _portal_problems(message: subscription_pb2.CreatePortalSessionRequest, redirect_hosts: Collection[str]) -> Problems:
    yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    yield "return_url", field_rules.url_problem(message.return_url, redirect_hosts)
    flow = PORTAL_FLOWS.get(message.flow)
    yield "flow", None if flow is not None else "must be one that the contract names"
    if flow in _OF_ONE_SUBSCRIPTION:
        yield "stripe_subscription_id", field_rules.subscription_id_problem(message.stripe_subscription_id)
    elif message.HasField("stripe_subscription_id"):
        yield "stripe_subscription_id", "is only taken for flows of one subscription"
