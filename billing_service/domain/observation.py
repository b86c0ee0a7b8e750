"""What an event or a read says about one Stripe object: JSON in, observations out.

Rules of this file:
- Tolerant of old and new payload shapes, and of fields that are not known; never of a shape that it does not understand:
  that is `MalformedError`, and the event goes to quarantine, whole. Nothing is half-read.
- Whether an event is used is decided by its type alone, never by what we know of its object.
- Times are Stripe's: whole seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

METADATA_DEPLOYMENT = "billing_deployment"
METADATA_CUSTOMER_ID = "billing_customer_id"
METADATA_INTENT = "billing_checkout_intent"
METADATA_PLAN_KEY = "billing_plan_key"
METADATA_PRICE_KEY = "billing_price_key"
METADATA_QUANTITY = "billing_quantity"


class MalformedError(ValueError):
    """The bytes are not an event or object that we understand; the message says what is wrong, with no value of it."""


class ObjectKind(StrEnum):
    """The kinds of object that bear on access, as Stripe's `object` field names them."""

    CHECKOUT_SESSION = "checkout.session"
    SUBSCRIPTION = "subscription"
    INVOICE = "invoice"


class Fact(StrEnum):
    """What only the type of an event says; kept beside the registers, each at its earliest time."""

    PAID = "paid"  # the session was seen paid
    PAYMENT_FAILED = "payment_failed"  # the session's delayed payment, or an attempt on the invoice, failed


# The types that are used, and the kind of object that each carries.
# https://docs.stripe.com/api/events/types
HANDLED_TYPES: Mapping[str, ObjectKind] = {
    "checkout.session.completed": ObjectKind.CHECKOUT_SESSION,
    "checkout.session.async_payment_succeeded": ObjectKind.CHECKOUT_SESSION,
    "checkout.session.async_payment_failed": ObjectKind.CHECKOUT_SESSION,
    "checkout.session.expired": ObjectKind.CHECKOUT_SESSION,
    "customer.subscription.created": ObjectKind.SUBSCRIPTION,
    "customer.subscription.updated": ObjectKind.SUBSCRIPTION,
    "customer.subscription.deleted": ObjectKind.SUBSCRIPTION,
    "invoice.paid": ObjectKind.INVOICE,
    "invoice.payment_succeeded": ObjectKind.INVOICE,
    "invoice.payment_failed": ObjectKind.INVOICE,
}
FAILURE_TYPES = frozenset({"checkout.session.async_payment_failed", "invoice.payment_failed"})


class SessionStatus(StrEnum):
    """Stripe's `status` of a checkout session."""

    OPEN = "open"
    COMPLETE = "complete"
    EXPIRED = "expired"


class PaymentStatus(StrEnum):
    """Stripe's `payment_status` of a checkout session."""

    PAID = "paid"
    UNPAID = "unpaid"
    NO_PAYMENT_REQUIRED = "no_payment_required"


class SubscriptionStatus(StrEnum):
    """Stripe's `status` of a subscription."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    UNPAID = "unpaid"
    PAUSED = "paused"


class InvoiceStatus(StrEnum):
    """Stripe's `status` of an invoice."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


@dataclass(frozen=True)
class SessionView:
    """What we use of a checkout session."""

    status: SessionStatus
    payment_status: PaymentStatus
    mode: str
    created: int
    subscription_id: str | None
    intent_id: str | None
    plan_key: str | None
    price_key: str | None
    quantity: int


@dataclass(frozen=True)
class ItemView:
    """What we use of a subscription item."""

    item_id: str
    price_id: str
    lookup_key: str | None
    quantity: int
    period_start: int
    period_end: int


@dataclass(frozen=True)
class SubscriptionView:
    """What we use of a subscription."""

    status: SubscriptionStatus
    start: int
    items: tuple[ItemView, ...]
    latest_invoice_id: str | None
    cancel_at: int | None
    cancel_at_period_end: bool
    ended_at: int | None
    trial_end: int | None


@dataclass(frozen=True)
class InvoiceView:
    """What we use of an invoice."""

    status: InvoiceStatus
    created: int
    subscription_id: str | None
    billing_reason: str | None
    finalized_at: int | None


View = SessionView | SubscriptionView | InvoiceView


@dataclass(frozen=True)
class Claim:
    """What our metadata on the object says: whose it is, and which deployment put it there."""

    deployment: str | None
    customer_id: str | None


@dataclass(frozen=True)
class Observation:
    """What an event or a read says about one object, wherever it came from."""

    object_id: str
    kind: ObjectKind
    stripe_customer_id: str | None
    claim: Claim
    view: View


@dataclass(frozen=True)
class Event:
    """One event, understood. `observation` is None where the type is not one that we use."""

    event_id: str
    type: str
    created: int
    livemode: bool
    api_version: str | None
    object_id: str | None
    observation: Observation | None = None
    facts: Mapping[Fact, int] = field(default_factory=dict)


def read_event(body: object) -> Event:
    """Understand the decoded JSON of an event, a v1 event or a thin v2 one.

    Raises:
        MalformedError: it is not an event, or an event of a used type whose object has a shape that is not known.
    """
    envelope = _mapping(body, "the event")
    event = Event(
        event_id=_text(envelope, "id"),
        type=_text(envelope, "type"),
        created=_event_created(envelope.get("created")),
        livemode=envelope.get("livemode") is True,
        api_version=_optional_text(envelope, "api_version"),
        object_id=_event_object_id(envelope),
    )
    kind = HANDLED_TYPES.get(event.type)
    if kind is None:
        return event
    data = _mapping(_mapping(envelope.get("data"), "data").get("object"), "data.object")
    observation = observe(data, kind)
    facts = _facts_of(event.type, event.created, observation.view)
    return Event(**{**vars(event), "observation": observation, "facts": facts})


def observe(data: Mapping[str, Any], kind: ObjectKind) -> Observation:
    """Understand one object of Stripe's as an observation.

    Raises:
        MalformedError: it is of another kind, or its shape is not known.
    """
    if data.get("object") != kind.value:
        raise MalformedError(f"data.object is not a {kind.value}")
    return Observation(
        object_id=_text(data, "id"),
        kind=kind,
        stripe_customer_id=_id_of(data.get("customer"), "customer"),
        claim=_claim(_metadata(data, kind)),
        view=_VIEWS[kind](data),
    )


def facts_of_read(view: View, read_time: int) -> Mapping[Fact, int]:
    """Give the facts that a read at `read_time` shows."""
    return {Fact.PAID: read_time} if _is_paid_session(view) else {}


def _facts_of(event_type: str, created: int, view: View) -> Mapping[Fact, int]:
    facts: dict[Fact, int] = {}
    if event_type in FAILURE_TYPES:
        facts[Fact.PAYMENT_FAILED] = created
    if _is_paid_session(view):
        facts[Fact.PAID] = created
    return facts


def _is_paid_session(view: View) -> bool:
    return (
        isinstance(view, SessionView)
        and view.status is SessionStatus.COMPLETE
        and view.payment_status is not PaymentStatus.UNPAID
    )


def _session_view(data: Mapping[str, Any]) -> SessionView:
    metadata = _mapping(data.get("metadata") or {}, "metadata")
    return SessionView(
        status=_one_of(SessionStatus, data, "status"),
        payment_status=_one_of(PaymentStatus, data, "payment_status"),
        mode=_text(data, "mode"),
        created=_seconds(data, "created"),
        subscription_id=_id_of(data.get("subscription"), "subscription"),
        intent_id=_optional_text(metadata, METADATA_INTENT),
        plan_key=_optional_text(metadata, METADATA_PLAN_KEY),
        price_key=_optional_text(metadata, METADATA_PRICE_KEY),
        quantity=_decimal(metadata.get(METADATA_QUANTITY, "1"), METADATA_QUANTITY),
    )


def _subscription_view(data: Mapping[str, Any]) -> SubscriptionView:
    items = _mapping(data.get("items"), "items").get("data")
    if not isinstance(items, list) or not items:
        raise MalformedError("items.data is not a list with entries")
    return SubscriptionView(
        status=_one_of(SubscriptionStatus, data, "status"),
        start=_optional_seconds(data, "start_date") or _seconds(data, "created"),
        items=tuple(sorted((_item_view(item, data) for item in items), key=lambda item: item.item_id)),
        latest_invoice_id=_id_of(data.get("latest_invoice"), "latest_invoice"),
        cancel_at=_optional_seconds(data, "cancel_at"),
        cancel_at_period_end=data.get("cancel_at_period_end") is True,
        ended_at=_optional_seconds(data, "ended_at"),
        trial_end=_optional_seconds(data, "trial_end"),
    )


def _item_view(value: object, subscription: Mapping[str, Any]) -> ItemView:
    item = _mapping(value, "items.data[]")
    price = _mapping(item.get("price") or item.get("plan"), "items.data[].price")
    # Since 2025-03-31.basil the period stands on the item; before, on the subscription.
    period = item if item.get("current_period_end") is not None else subscription
    quantity = item.get("quantity", 1)
    return ItemView(
        item_id=_text(item, "id"),
        price_id=_text(price, "id"),
        lookup_key=_optional_text(price, "lookup_key"),
        quantity=quantity if isinstance(quantity, int) and not isinstance(quantity, bool) else 1,
        period_start=_seconds(period, "current_period_start"),
        period_end=_seconds(period, "current_period_end"),
    )


def _invoice_view(data: Mapping[str, Any]) -> InvoiceView:
    transitions = _mapping(data.get("status_transitions") or {}, "status_transitions")
    return InvoiceView(
        status=_one_of(InvoiceStatus, data, "status"),
        created=_seconds(data, "created"),
        subscription_id=_id_of(_invoice_parent(data).get("subscription"), "subscription"),
        billing_reason=_optional_text(data, "billing_reason"),
        finalized_at=_optional_seconds(transitions, "finalized_at"),
    )


def _invoice_parent(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give where the subscription and its metadata stand: `parent.subscription_details` since basil, before on the invoice."""
    parent = data.get("parent")
    if isinstance(parent, Mapping):
        return _mapping(parent.get("subscription_details") or {}, "parent.subscription_details")
    details = _mapping(data.get("subscription_details") or {}, "subscription_details")
    return {"subscription": data.get("subscription"), "metadata": details.get("metadata")}


_VIEWS: Mapping[ObjectKind, Callable[[Mapping[str, Any]], View]] = {
    ObjectKind.CHECKOUT_SESSION: _session_view,
    ObjectKind.SUBSCRIPTION: _subscription_view,
    ObjectKind.INVOICE: _invoice_view,
}


def _metadata(data: Mapping[str, Any], kind: ObjectKind) -> Mapping[str, Any]:
    holder = _invoice_parent(data) if kind is ObjectKind.INVOICE else data
    return _mapping(holder.get("metadata") or {}, "metadata")


def _claim(metadata: Mapping[str, Any]) -> Claim:
    return Claim(
        deployment=_optional_text(metadata, METADATA_DEPLOYMENT),
        customer_id=_optional_text(metadata, METADATA_CUSTOMER_ID),
    )


def _event_created(value: object) -> int:
    """Thin v2 events write their time as text: https://docs.stripe.com/api/v2/core/events."""
    if isinstance(value, str):
        try:
            return int(datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError) as error:
            raise MalformedError("created is not a time") from error
    return _seconds({"created": value}, "created")


def _event_object_id(envelope: Mapping[str, Any]) -> str | None:
    data = envelope.get("data")
    holder = data.get("object") if isinstance(data, Mapping) else envelope.get("related_object")
    return _optional_text(holder, "id") if isinstance(holder, Mapping) else None


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MalformedError(f"{name} is not an object")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedError(f"{key} is not a text")
    return value


def _optional_text(data: Mapping[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _text(data, key) if data.get(key) != "" else None


def _seconds(data: Mapping[str, Any], key: str) -> int:
    value = data.get(key)
    # Up to the year 9999, so that every time that is kept can also be answered.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 253_402_300_800:
        raise MalformedError(f"{key} is not a time in seconds")
    return value


def _optional_seconds(data: Mapping[str, Any], key: str) -> int | None:
    return None if data.get(key) is None else _seconds(data, key)


def _decimal(value: object, name: str) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 9:
        raise MalformedError(f"{name} is not a whole number")
    return int(value)


def _id_of(value: object, name: str) -> str | None:
    """Give the id of a reference, bare or expanded."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return _text(value, "id")
    if not isinstance(value, str) or not value:
        raise MalformedError(f"{name} is neither an id nor an object")
    return value


_Status = TypeVar("_Status", bound=StrEnum)


def _one_of(enum: type[_Status], data: Mapping[str, Any], key: str) -> _Status:
    try:
        return enum(_text(data, key))
    except ValueError as error:
        raise MalformedError(f"{key} is not one that is known") from error
