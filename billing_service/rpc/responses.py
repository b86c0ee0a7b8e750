"""Responses: domain -> protobuf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import billing_service_pb2, checkout_pb2, entitlement_pb2, plan_pb2, watch_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from billing_service.domain.access import Source, SourceState, SourceType
from billing_service.domain.catalog import Catalog, FeatureValue, Plan, PlanMode, Unlimited
from billing_service.domain.checkout import CheckoutSession, CheckoutState, CreatedCheckout
from billing_service.domain.entitlement import Entitlement, Entitlements
from billing_service.flows.fulfill import EventResult, Outcome
from billing_service.flows.list_plans import PlanListing
from billing_service.flows.watch_entitlements import ChangeCause, WatchKind, WatchMessage

_SourceMessage = entitlement_pb2.Source
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
SOURCE_TYPES: Final[Mapping[SourceType, entitlement_pb2.Source.Type.ValueType]] = {
    SourceType.DEFAULT_PLAN: _SourceMessage.TYPE_DEFAULT_PLAN,
    SourceType.SUBSCRIPTION: _SourceMessage.TYPE_SUBSCRIPTION,
    SourceType.PURCHASE: _SourceMessage.TYPE_PURCHASE,
    SourceType.GRANT: _SourceMessage.TYPE_GRANT,
}
SOURCE_STATES: Final[Mapping[SourceState, entitlement_pb2.Source.State.ValueType]] = {
    SourceState.ACTIVE: _SourceMessage.STATE_ACTIVE,
    SourceState.TRIALING: _SourceMessage.STATE_TRIALING,
    SourceState.GRACE: _SourceMessage.STATE_GRACE,
    SourceState.ENDING: _SourceMessage.STATE_ENDING,
    SourceState.PENDING_PAYMENT: _SourceMessage.STATE_PENDING_PAYMENT,
    SourceState.PAYMENT_OVERDUE: _SourceMessage.STATE_PAYMENT_OVERDUE,
    SourceState.PAUSED: _SourceMessage.STATE_PAUSED,
    SourceState.ENDED: _SourceMessage.STATE_ENDED,
    SourceState.UNRESOLVED: _SourceMessage.STATE_UNRESOLVED,
    SourceState.REFUNDED: _SourceMessage.STATE_REFUNDED,
    SourceState.DISPUTED: _SourceMessage.STATE_DISPUTED,
    SourceState.SCHEDULED: _SourceMessage.STATE_SCHEDULED,
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


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Convert an aware time; protobuf reads a naive one as UTC whatever was meant, so that would be a defect."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is not to leave the service")
    since = moment - _EPOCH  # Timestamp.FromDatetime does the same, several times slower
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


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
    message = entitlement_pb2.GetEntitlementsResponse(
        customer_id=entitlements.customer_id,
        revision=entitlements.revision,
        plan_keys=entitlements.plan_keys,
        read_time=timestamp(entitlements.read_time),
        next_change_time=timestamp(entitlements.next_change_time),
        catalog_version=entitlements.catalog_version,
        facts_time=timestamp(entitlements.facts_time),
    )
    message.MergeFromString(_repeated_fields(entitlements.entitlements, entitlements.sources))
    return message


# The hot path. Messages may be given in pieces, one after the other (https://protobuf.dev/programming-guides/encoding/#last-one-wins):
# what a feature's key and value are, which is the same for many customers, and why, which is the same for most features of
# one. Put together as bytes they cost a third of what they cost as messages.
def _tag(message: type[Message], field: str) -> bytes:
    """Give what goes before a field that is a message."""
    return bytes((message.DESCRIPTOR.fields_by_name[field].number << 3 | 2,))


_ENTITLEMENTS: Final = _tag(entitlement_pb2.GetEntitlementsResponse, "entitlements")
_SOURCES: Final = _tag(entitlement_pb2.GetEntitlementsResponse, "sources")
_SOURCE: Final = _tag(entitlement_pb2.Entitlement, "source")
_NEXT_CHANGE_TIME: Final = _tag(entitlement_pb2.Entitlement, "next_change_time")


def _repeated_fields(entitlements: Sequence[Entitlement], sources: Sequence[Source]) -> bytes:
    """Give the bytes of the fields `entitlements` and `sources`."""
    made = {id(source): source_message(source).SerializeToString() for source in sources}
    parts: list[bytes] = []
    for source in sources:
        data = made[id(source)]
        parts += (_SOURCES, _varint(len(data)), data)
    last: Entitlement | None = None
    why = b""
    for one in entitlements:
        if last is None or one.source is not last.source or one.next_change_time is not last.next_change_time:
            why = _why(one, made)
        last = one
        what = _what(one.feature_key, one.value)
        parts += (_ENTITLEMENTS, _varint(len(what) + len(why)), what, why)
    return b"".join(parts)


def _why(one: Entitlement, made: Mapping[int, bytes]) -> bytes:
    """Give the bytes of the rest of an Entitlement; `made` has the bytes of sources, by identity."""
    why = b""
    if one.source is not None:
        data = made.get(id(one.source)) or source_message(one.source).SerializeToString()
        why = _SOURCE + _varint(len(data)) + data
    change = timestamp(one.next_change_time)
    if change is not None:
        data = change.SerializeToString()
        why += _NEXT_CHANGE_TIME + _varint(len(data)) + data
    return why


@lru_cache(maxsize=4_096, typed=True)  # typed: True and 1 are equal, and are not the same answer
def _what(feature_key: str, value: FeatureValue) -> bytes:
    return entitlement_pb2.Entitlement(feature_key=feature_key, value=feature_value(value)).SerializeToString()


@lru_cache(maxsize=4_096)
def _varint(number: int) -> bytes:
    low = []
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*low, number))


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


def feature_value(value: FeatureValue) -> plan_pb2.FeatureValue:
    """Convert a value; the order matters: True is an int to Python, and UNLIMITED a str."""
    if isinstance(value, bool):
        return plan_pb2.FeatureValue(bool_value=value)
    if isinstance(value, Unlimited):
        return plan_pb2.FeatureValue(unlimited=True)
    if isinstance(value, int):
        return plan_pb2.FeatureValue(integer_value=value)
    return plan_pb2.FeatureValue(text_value=value)


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
    )


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
