"""Responses: domain -> protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import billing_service_pb2, checkout_pb2, entitlement_pb2, plan_pb2, watch_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from billing_service.domain.access import Source
from billing_service.domain.catalog import Catalog, Plan, PlanMode
from billing_service.domain.checkout import CheckoutSession, CheckoutState, CreatedCheckout
from billing_service.domain.entitlement import NOTHING, Entitlements
from billing_service.flows.fulfill import EventResult, Outcome
from billing_service.flows.list_plans import PlanListing
from billing_service.flows.watch_entitlements import ChangeCause, WatchKind, WatchMessage
from billing_service.rpc.entitlement_wire import (
    SOURCE_STATES,
    SOURCE_TYPES,
    entitlements_wire,
    feature_value,
    since_epoch,
)

_SessionMessage = checkout_pb2.CheckoutSession
_WatchResponse = watch_pb2.WatchEntitlementsResponse
_ResultMessage = fulfillment_service_pb2.FulfillResult

CHECKOUT_STATES: Final[Mapping[CheckoutState, checkout_pb2.CheckoutSession.State.ValueType]] = {
    CheckoutState.OPEN: _SessionMessage.STATE_OPEN,
    CheckoutState.PROCESSING: _SessionMessage.STATE_PROCESSING,
    CheckoutState.COMPLETE: _SessionMessage.STATE_COMPLETE,
    CheckoutState.PAYMENT_FAILED: _SessionMessage.STATE_PAYMENT_FAILED,
    CheckoutState.EXPIRED: _SessionMessage.STATE_EXPIRED,
}
WATCH_KINDS: Final[Mapping[WatchKind, watch_pb2.WatchEntitlementsResponse.Kind.ValueType]] = {
    WatchKind.SNAPSHOT_BEGIN: _WatchResponse.KIND_SNAPSHOT_BEGIN,
    WatchKind.SNAPSHOT: _WatchResponse.KIND_SNAPSHOT,
    WatchKind.SNAPSHOT_END: _WatchResponse.KIND_SNAPSHOT_END,
    WatchKind.CHANGE: _WatchResponse.KIND_CHANGE,
    WatchKind.PROGRESS: _WatchResponse.KIND_PROGRESS,
}
CAUSES: Final[Mapping[ChangeCause, watch_pb2.WatchEntitlementsResponse.Cause.ValueType]] = {
    ChangeCause.EVENT: _WatchResponse.CAUSE_EVENT,
    ChangeCause.READ: _WatchResponse.CAUSE_READ,
    ChangeCause.GRANT: _WatchResponse.CAUSE_GRANT,
    ChangeCause.TIME: _WatchResponse.CAUSE_TIME,
    ChangeCause.BINDING: _WatchResponse.CAUSE_BINDING,
}
PLAN_MODES: Final[Mapping[PlanMode, plan_pb2.PlanMode.ValueType]] = {
    PlanMode.FREE: plan_pb2.PLAN_MODE_FREE,
    PlanMode.SUBSCRIPTION: plan_pb2.PLAN_MODE_SUBSCRIPTION,
    PlanMode.PAYMENT: plan_pb2.PLAN_MODE_PAYMENT,
}
OUTCOMES: Final[Mapping[Outcome, fulfillment_service_pb2.FulfillResult.Outcome.ValueType]] = {
    Outcome.APPLIED: _ResultMessage.OUTCOME_APPLIED,
    Outcome.DUPLICATE: _ResultMessage.OUTCOME_DUPLICATE,
    Outcome.IGNORED: _ResultMessage.OUTCOME_IGNORED,
    Outcome.NOT_OURS: _ResultMessage.OUTCOME_NOT_OURS,
    Outcome.QUARANTINED: _ResultMessage.OUTCOME_QUARANTINED,
    Outcome.PARKED: _ResultMessage.OUTCOME_PARKED,
}


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Convert an aware time; protobuf reads a naive one as UTC whatever was meant, so that would be a defect."""
    if moment is None:
        return None
    seconds, nanos = since_epoch(moment)
    return Timestamp(seconds=seconds, nanos=nanos)


def create_checkout_session_response(created: CreatedCheckout) -> checkout_pb2.CreateCheckoutSessionResponse:
    """Convert what CreateCheckoutSession found or made."""
    return checkout_pb2.CreateCheckoutSessionResponse(
        checkout_session=_checkout_session(created.session), reused=created.reused
    )


def get_checkout_session_response(session: CheckoutSession) -> checkout_pb2.GetCheckoutSessionResponse:
    """Convert the session that GetCheckoutSession found."""
    return checkout_pb2.GetCheckoutSessionResponse(checkout_session=_checkout_session(session))


def _checkout_session(session: CheckoutSession) -> checkout_pb2.CheckoutSession:
    return checkout_pb2.CheckoutSession(
        checkout_session_id=session.checkout_session_id,
        url=session.url or "",
        state=CHECKOUT_STATES[session.state],
        expire_time=timestamp(session.expire_time),
        create_time=timestamp(session.create_time),
        customer_id=session.customer_id,
        plan_key=session.plan_key,
        price_key=session.price_key,
        quantity=session.quantity,
    )


def get_entitlements_response(entitlements: Entitlements) -> entitlement_pb2.GetEntitlementsResponse:
    """Convert what one customer may use."""
    return entitlement_pb2.GetEntitlementsResponse.FromString(entitlements_wire(entitlements))


def source_message(source: Source) -> entitlement_pb2.Source:
    """Convert a source as it stands at one moment."""
    return entitlement_pb2.Source(
        type=SOURCE_TYPES[source.type],
        state=SOURCE_STATES[source.state],
        plan_key=source.plan_key or "",
        quantity=source.quantity,
        stripe_id=source.stripe_id or "",
        stripe_subscription_id=source.stripe_subscription_id or "",
        start_time=timestamp(source.start_time),
        end_time=timestamp(source.end_time),
        grant_id=source.grant_id or "",
        override=source.override,
    )


def watch_response(message: WatchMessage) -> watch_pb2.WatchEntitlementsResponse:
    """Convert one message of a watch."""
    told = message.entitlements
    return watch_pb2.WatchEntitlementsResponse(
        kind=WATCH_KINDS[message.kind],
        entitlements=None if told is None else get_entitlements_response(told),
        cause=_WatchResponse.CAUSE_UNSPECIFIED if message.cause is None else CAUSES[message.cause],
        change_time=timestamp(message.change_time),
        cursor=message.cursor or "",
    )


def list_plans_response(listing: PlanListing) -> billing_service_pb2.ListPlansResponse:
    """Convert the plans of the catalog, in its order."""
    return billing_service_pb2.ListPlansResponse(
        plans=[_plan(plan, listing) for plan in listing.plans],
        catalog_version=listing.catalog.version,
        default_features=_default_features(listing.catalog),
    )


def _default_features(catalog: Catalog) -> list[plan_pb2.PlanFeature]:
    """Give every feature as a customer has it of whom nothing is known."""
    given = catalog.default_plan.features if catalog.default_plan else {}
    return [
        plan_pb2.PlanFeature(
            feature_key=key, display_name=feature.name, value=feature_value(given.get(key, NOTHING[feature.type]))
        )
        for key, feature in catalog.features.items()
    ]


def _plan(plan: Plan, listing: PlanListing) -> plan_pb2.Plan:
    default = listing.catalog.default_plan
    message = plan_pb2.Plan(
        plan_key=plan.plan_key,
        mode=PLAN_MODES[plan.mode],
        display_name=plan.name,
        description=plan.description,
        plan_group=plan.group or "",
        prices=_prices(plan, listing.available_price_keys),
        features=_plan_features(plan, listing.catalog),
        is_default=default is not None and default.plan_key == plan.plan_key,
        quantity_allowed=plan.quantity_allowed,
    )
    if plan.duration is not None:
        message.duration.FromTimedelta(plan.duration)
    return message


def _prices(plan: Plan, available: frozenset[tuple[str, str]]) -> list[plan_pb2.PlanPrice]:
    return [
        plan_pb2.PlanPrice(
            price_key=price.price_key,
            display_text=price.text,
            available=(plan.plan_key, price.price_key) in available,
        )
        for price in plan.prices
    ]


def _plan_features(plan: Plan, catalog: Catalog) -> list[plan_pb2.PlanFeature]:
    return [
        plan_pb2.PlanFeature(
            feature_key=key,
            display_name=feature.name,
            value=feature_value(plan.features[key]),
            scales_with_quantity=key in plan.scales,
        )
        for key, feature in catalog.features.items()
        if key in plan.features
    ]


def fulfill_response(results: Sequence[EventResult]) -> fulfillment_service_pb2.FulfillResponse:
    """Convert what became of a batch, in its order."""
    return fulfillment_service_pb2.FulfillResponse(
        results=[
            fulfillment_service_pb2.FulfillResult(event_id=result.event_id or "", outcome=OUTCOMES[result.outcome])
            for result in results
        ]
    )
