"""What an event or a read says about one Stripe object: JSON in, observations out.

Whether an event is used is decided by its type alone, never by what we know of its object: a refund may come before the
session that ties it to a customer. An event of a used type whose object has an unknown shape is `MalformedError`, whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from billing_service.domain.frozen import frozen
from billing_service.domain.json_fields import (
    MalformedError,
    is_mapping,
    mapping,
    optional_mapping,
    optional_text,
    reference,
    seconds,
    text,
)
from billing_service.domain.views import (
    VIEWS,
    CustomerStatus,
    CustomerView,
    ObjectKind,
    PaymentStatus,
    SessionStatus,
    SessionView,
    View,
    anchors,
    has_more_items,
    has_one_period_for_all,
    invoice_parent,
)

METADATA_DEPLOYMENT = "billing_deployment"
METADATA_CUSTOMER_ID = "billing_customer_id"

# https://docs.stripe.com/event-destinations#thin-events
THIN_OBJECT = "v2.core.event"
THIN_PREFIX = "v1."  # before the type of the event whose object it names
THIN_ID = re.compile(r"[A-Za-z0-9_]{1,255}")  # it becomes a part of a path


class Fact(StrEnum):
    """What only the type of an event says; kept beside the registers, each at its earliest time."""

    PAID = "paid"  # the session was seen paid
    PAYMENT_FAILED = "payment_failed"  # the session's delayed payment, or an attempt on the invoice, failed
    FINALIZATION_FAILED = "finalization_failed"  # Stripe could not make the draft of an invoice final


# Named once, here as elsewhere in this package: on Python 3.11 to look a member up in its enum costs as much as two calls.
_CUSTOMER, _INVOICE, _SUBSCRIPTION = ObjectKind.CUSTOMER, ObjectKind.INVOICE, ObjectKind.SUBSCRIPTION
_COMPLETE, _UNPAID = SessionStatus.COMPLETE, PaymentStatus.UNPAID

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
    "customer.subscription.paused": ObjectKind.SUBSCRIPTION,
    "customer.subscription.resumed": ObjectKind.SUBSCRIPTION,
    "customer.subscription.pending_update_applied": ObjectKind.SUBSCRIPTION,
    "customer.subscription.pending_update_expired": ObjectKind.SUBSCRIPTION,
    "customer.subscription.trial_will_end": ObjectKind.SUBSCRIPTION,
    "customer.deleted": ObjectKind.CUSTOMER,
    "invoice.paid": ObjectKind.INVOICE,
    "invoice.payment_succeeded": ObjectKind.INVOICE,
    "invoice.payment_failed": ObjectKind.INVOICE,
    "invoice.payment_action_required": ObjectKind.INVOICE,
    "invoice.voided": ObjectKind.INVOICE,
    "invoice.marked_uncollectible": ObjectKind.INVOICE,
    "invoice.finalization_failed": ObjectKind.INVOICE,
    "invoice_payment.paid": ObjectKind.INVOICE_PAYMENT,
    "charge.refunded": ObjectKind.CHARGE,
    "charge.refund.updated": ObjectKind.REFUND,
    "refund.created": ObjectKind.REFUND,
    "refund.updated": ObjectKind.REFUND,
    "refund.failed": ObjectKind.REFUND,
    "charge.dispute.created": ObjectKind.DISPUTE,
    "charge.dispute.updated": ObjectKind.DISPUTE,
    "charge.dispute.closed": ObjectKind.DISPUTE,
}
# They change nothing that anybody holds: that a price moved is known with them, and not only when prices are asked for next.
PRICE_TYPES = frozenset(
    {"price.created", "price.deleted", "price.updated", "product.created", "product.deleted", "product.updated"}
)
FAILURE_TYPES = frozenset(
    {"checkout.session.async_payment_failed", "invoice.payment_failed", "invoice.payment_action_required"}
)
# Where the payment intent of a complete session stands when it is given up: it was confirmed once, and is on its way in every other state
# (a debit `processing`, a voucher `requires_action`). https://docs.stripe.com/payments/paymentintents/lifecycle
FAILED_INTENT = frozenset({"requires_payment_method", "canceled"})
PAID_TYPE = "checkout.session.async_payment_succeeded"
SESSION_LIFE_S = 86_400  # Stripe's longest, for which a page can be paid on


@frozen
class Claim:
    """What our metadata on the object says: whose it is, and which deployment put it there."""

    deployment: str | None
    customer_id: str | None


@frozen
class Observation:
    """What an event or a read says about one object, wherever it came from."""

    object_id: str
    kind: ObjectKind
    stripe_customer_id: str | None
    claim: Claim
    view: View
    payment_failed: bool = False  # a read says so by the payment intent that it brought along; an event by its type
    is_vague: bool = False  # it leaves out what decides, and a read has it: the period of each of several items

    @property
    def anchors(self) -> frozenset[str]:
        """The ids by which the object hangs together with others."""
        return anchors(self.object_id, self.view)


@frozen
class Notice:
    """What a thin event says, or one whose object is not whole: that something happened to it; of what, only as much as its type says."""

    object_id: str
    kind: ObjectKind


@frozen
class Event:
    """One event, understood. `observation` and `notice` are None where the type is not one that we use; at most one is set.

    `facts` are what it says of its object beside the payload, which a thin event has none of. One of a connected account
    (https://docs.stripe.com/connect/webhooks) is not looked into: its owner writes what he likes there, our metadata too.
    """

    event_id: str
    type: str
    created: int
    livemode: bool
    api_version: str | None
    object_id: str | None
    observation: Observation | None
    facts: Mapping[Fact, int]
    notice: Notice | None
    of_connected_account: bool = False

    @property
    def is_used(self) -> bool:
        """Whether it has an effect."""
        return self.observation is not None or self.notice is not None


def read_event(body: object) -> Event:
    """Understand the decoded JSON of an event, a v1 event or a thin v2 one.

    Raises:
        MalformedError: it is not an event, or an event of a used type whose object has a shape that is not known.
    """
    envelope = mapping(body, "the event")
    event_id, event_type = text(envelope, "id"), text(envelope, "type")
    created = _event_created(envelope)
    api_version, object_id = optional_text(envelope, "api_version"), _event_object_id(envelope)
    observation = notice = None
    is_ours = envelope.get("account") is None
    if is_ours and envelope.get("object") == THIN_OBJECT:
        notice = _notice(event_type, object_id)
    elif is_ours and (kind := HANDLED_TYPES.get(event_type)) is not None:
        data = mapping(mapping(envelope.get("data"), "data").get("object"), "data.object")
        if kind is _SUBSCRIPTION and has_more_items(data):  # what it shows says nothing for sure: it is read
            notice = _notice_of(kind, object_id)
        else:
            observation = _observed(event_type, kind, data)
    return Event(
        event_id=event_id,
        type=event_type,
        created=created,
        livemode=envelope.get("livemode") is True,
        api_version=api_version,
        object_id=object_id,
        observation=observation,
        facts=_facts_of(event_type, created, observation) if observation or notice else {},
        notice=notice,
        of_connected_account=not is_ours,
    )


def _observed(event_type: str, kind: ObjectKind, data: Mapping[str, Any]) -> Observation:
    if event_type == "customer.deleted":
        data = {**data, "deleted": True}  # the payload is of the moment before; only the type says that it is gone
    return observe(data, kind)


def _notice(event_type: str, object_id: str | None) -> Notice | None:
    """Say which object a thin event of a used type is about.

    Raises:
        MalformedError: it names none.
    """
    kind = HANDLED_TYPES.get(event_type.removeprefix(THIN_PREFIX)) if event_type.startswith(THIN_PREFIX) else None
    return None if kind is None else _notice_of(kind, object_id)


def _notice_of(kind: ObjectKind, object_id: str | None) -> Notice:
    if not object_id or not THIN_ID.fullmatch(object_id):
        raise MalformedError("the object that it is about has no id")
    return Notice(object_id, kind)


def observe(data: Mapping[str, Any], kind: ObjectKind) -> Observation:
    """Understand one object of Stripe's as an observation.

    Raises:
        MalformedError: it is of another kind, or its shape is not known.
    """
    if data.get("object") != kind:
        raise MalformedError(f"data.object is not a {kind.value}")
    object_id = text(data, "id")
    view = VIEWS[kind](data)
    return Observation(
        object_id=object_id,
        kind=kind,
        stripe_customer_id=object_id if kind is _CUSTOMER else reference(data, "customer"),
        claim=_claim(_metadata(data, kind)),
        view=view,
        payment_failed=isinstance(view, SessionView) and _is_failed_payment(data, view),
        is_vague=kind is _SUBSCRIPTION and has_one_period_for_all(data),
    )


def _is_failed_payment(data: Mapping[str, Any], view: SessionView) -> bool:
    """Say whether the payment that a session waits for, expanded, failed: the session itself stays complete and unpaid.

    Not by `last_payment_error`: any later change of the payment intent clears it.
    """
    intent = data.get("payment_intent")
    if not is_mapping(intent) or view.status is not _COMPLETE or view.payment_status is not _UNPAID:
        return False
    return optional_text(intent, "status") in FAILED_INTENT


def facts_of_read(observation: Observation, read_time: int, *, was_told: bool) -> Mapping[Fact, int]:
    """Give the facts that a read at `read_time` shows. Of what is paid it shows that it is, and not since when.

    It was paid by then. Where nobody had told that the page was completed, it was paid before the page expired as well: a payment
    that is known to be delayed comes later than that.
    """
    facts: dict[Fact, int] = {}
    view = observation.view
    if isinstance(view, SessionView) and is_paid_session(view):
        facts[Fact.PAID] = read_time if was_told else min(read_time, view.created + SESSION_LIFE_S)
    if observation.payment_failed:
        facts[Fact.PAYMENT_FAILED] = read_time
    return facts


def is_deleted_customer(view: View) -> bool:
    """Say whether the view is of a Stripe customer that is gone."""
    return isinstance(view, CustomerView) and view.status is CustomerStatus.DELETED


def _facts_of(event_type: str, created: int, observation: Observation | None) -> Mapping[Fact, int]:
    facts: dict[Fact, int] = {}
    said = event_type.removeprefix(THIN_PREFIX)
    if said in FAILURE_TYPES:
        facts[Fact.PAYMENT_FAILED] = created
    if said == "invoice.finalization_failed":
        facts[Fact.FINALIZATION_FAILED] = created
    if said == PAID_TYPE or (observation is not None and is_paid_session(observation.view)):
        facts[Fact.PAID] = created
    return facts


def is_paid_session(view: View) -> bool:
    """Say whether the view is of a checkout session that is complete and does not wait for its payment."""
    return isinstance(view, SessionView) and view.status is _COMPLETE and view.payment_status is not _UNPAID


def _metadata(data: Mapping[str, Any], kind: ObjectKind) -> Mapping[str, Any]:
    return optional_mapping(invoice_parent(data) if kind is _INVOICE else data, "metadata")


def _claim(metadata: Mapping[str, Any]) -> Claim:
    return Claim(
        deployment=optional_text(metadata, METADATA_DEPLOYMENT),
        customer_id=optional_text(metadata, METADATA_CUSTOMER_ID),
    )


def _event_created(envelope: Mapping[str, Any]) -> int:
    """Thin v2 events write their time as text: https://docs.stripe.com/api/v2/core/events."""
    value = envelope.get("created")
    if isinstance(value, str):
        try:
            return int(datetime.fromisoformat(value).timestamp())
        except (ValueError, OverflowError) as error:
            raise MalformedError("created is not a time") from error
    return seconds(envelope, "created")


def _event_object_id(envelope: Mapping[str, Any]) -> str | None:
    data = envelope.get("data")
    holder = data.get("object") if is_mapping(data) else envelope.get("related_object")
    return optional_text(holder, "id") if is_mapping(holder) else None
