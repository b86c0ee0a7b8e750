"""What we use of each kind of Stripe object, read from its JSON in every shape that Stripe has given it.

Rules of this file:
- Tolerant of old and new shapes, and of fields that are not known; never of a shape that it does not understand: that is
  `MalformedError`. Nothing is half-read.
- Times are Stripe's: whole seconds since the epoch. Amounts are in the currency's minor unit.
- Views are stored. A field that is added later needs a default, for the rows that were written before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from billing_service.domain.frozen import frozen
from billing_service.domain.json_fields import (
    MalformedError,
    decimal,
    is_mapping,
    mapping,
    one_of,
    optional_mapping,
    optional_seconds,
    optional_text,
    optional_whole,
    reference,
    seconds,
    signed,
    text,
    whole,
    words,
)

METADATA_INTENT = "billing_checkout_intent"
METADATA_PLAN_KEY = "billing_plan_key"
METADATA_PRICE_KEY = "billing_price_key"
METADATA_QUANTITY = "billing_quantity"
LARGEST_QUANTITY = 2**31 - 1  # far beyond what is sold; multiplied by a limit it must stay answerable


class ObjectKind(StrEnum):
    """The kinds of object that bear on access, as Stripe's `object` field names them."""

    CHECKOUT_SESSION = "checkout.session"
    SUBSCRIPTION = "subscription"
    INVOICE = "invoice"
    INVOICE_PAYMENT = "invoice_payment"
    CHARGE = "charge"
    REFUND = "refund"
    DISPUTE = "dispute"
    CUSTOMER = "customer"


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


class RefundStatus(StrEnum):
    """Stripe's `status` of a refund. One that succeeded can still fail later."""

    PENDING = "pending"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class DisputeStatus(StrEnum):
    """Stripe's `status` of a dispute. A lost one may be appealed; the warnings are inquiries and move no money."""

    WARNING_NEEDS_RESPONSE = "warning_needs_response"
    WARNING_UNDER_REVIEW = "warning_under_review"
    WARNING_CLOSED = "warning_closed"
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    APPEAL_NEEDS_RESPONSE = "appeal_needs_response"
    APPEAL_UNDER_REVIEW = "appeal_under_review"
    WON = "won"
    LOST = "lost"
    PREVENTED = "prevented"


class CustomerStatus(StrEnum):
    """Whether a Stripe customer still exists; the word is ours."""

    LIVE = "live"
    DELETED = "deleted"


@frozen
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
    payment_intent_id: str | None = None
    amount: int | None = None  # what was paid in all


@frozen
class ItemView:
    """What we use of a subscription item."""

    item_id: str
    price_id: str
    lookup_key: str | None
    quantity: int
    period_start: int
    period_end: int


@frozen
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
    collection_paused: bool = False  # `pause_collection`, which leaves the status alone
    paused_unpaid: bool = False  # status "paused", because a payment failed


@frozen
class InvoiceView:
    """What we use of an invoice."""

    status: InvoiceStatus
    created: int
    subscription_id: str | None
    billing_reason: str | None
    finalized_at: int | None
    attempted: bool = False  # whether a payment was tried
    due_date: int | None = None  # of one that is sent to the customer to pay
    asks_nothing: bool = False  # it was free, or a credit covers it
    from_balance: int = (
        0  # of one that asks for nothing: what it took of the customer's balance; below zero, what it left there
    )


@frozen
class InvoicePaymentView:
    """What we use of an invoice payment: the link between an invoice and a payment intent."""

    status: str
    invoice_id: str
    payment_intent_id: str | None


@frozen
class ChargeView:
    """What we use of a charge."""

    status: str
    amount: int
    amount_refunded: int
    payment_intent_id: str | None


@frozen
class RefundView:
    """What we use of a refund."""

    status: RefundStatus
    amount: int
    payment_intent_id: str | None
    charge_id: str | None


@frozen
class DisputeView:
    """What we use of a dispute."""

    status: DisputeStatus
    amount: int
    payment_intent_id: str | None
    charge_id: str | None


@frozen
class CustomerView:
    """What we use of a Stripe customer: that it is gone."""

    status: CustomerStatus


View = (
    SessionView
    | SubscriptionView
    | InvoiceView
    | InvoicePaymentView
    | ChargeView
    | RefundView
    | DisputeView
    | CustomerView
)


def anchors(object_id: str, view: View) -> frozenset[str]:
    """Give the ids by which this object hangs together with others that name no Stripe customer, or not always.

    A refund or dispute names a payment intent, not a session or subscription; an invoice payment ties that to an invoice.
    """
    found: tuple[str | None, ...] = ()
    match view:
        case SessionView():
            found = (view.payment_intent_id,)
        case InvoiceView():
            found = (object_id,)
        case InvoicePaymentView():
            found = (view.invoice_id, view.payment_intent_id)
        case ChargeView():
            found = (object_id, view.payment_intent_id)
        case RefundView() | DisputeView():
            found = (view.payment_intent_id, view.charge_id)
    return frozenset([anchor for anchor in found if anchor is not None])


# Why a subscription is paused: https://docs.stripe.com/api/subscriptions/object#subscription_object-status_details
_PAYMENT_FAILURES: Final = frozenset({"first_payment_failure", "final_payment_failure"})
_SESSION_STATUSES: Final = words(SessionStatus)
_PAYMENT_STATUSES: Final = words(PaymentStatus)
_SUBSCRIPTION_STATUSES: Final = words(SubscriptionStatus)
_INVOICE_STATUSES: Final = words(InvoiceStatus)
_REFUND_STATUSES: Final = words(RefundStatus)
_DISPUTE_STATUSES: Final = words(DisputeStatus)


def _session_view(data: Mapping[str, Any]) -> SessionView:
    metadata = optional_mapping(data, "metadata")
    return SessionView(
        status=one_of(_SESSION_STATUSES, data, "status"),
        payment_status=one_of(_PAYMENT_STATUSES, data, "payment_status"),
        mode=text(data, "mode"),
        created=seconds(data, "created"),
        subscription_id=reference(data, "subscription"),
        intent_id=optional_text(metadata, METADATA_INTENT),
        plan_key=optional_text(metadata, METADATA_PLAN_KEY),
        price_key=optional_text(metadata, METADATA_PRICE_KEY),
        quantity=decimal(metadata.get(METADATA_QUANTITY, "1"), METADATA_QUANTITY),
        payment_intent_id=reference(data, "payment_intent"),
        amount=optional_whole(data, "amount_total"),
    )


def _subscription_view(data: Mapping[str, Any]) -> SubscriptionView:
    listed = mapping(data.get("items"), "items")
    items = listed.get("data")
    if not isinstance(items, list) or not items:
        raise MalformedError("items.data is not a list with entries")
    if has_more_items(data):
        raise MalformedError("items.data has not all of the items")
    return SubscriptionView(
        status=one_of(_SUBSCRIPTION_STATUSES, data, "status"),
        start=optional_seconds(data, "start_date") or seconds(data, "created"),
        items=tuple(sorted([_item_view(item, data) for item in items], key=_item_id)),
        latest_invoice_id=reference(data, "latest_invoice"),
        cancel_at=optional_seconds(data, "cancel_at"),
        cancel_at_period_end=data.get("cancel_at_period_end") is True,
        ended_at=optional_seconds(data, "ended_at"),
        trial_end=optional_seconds(data, "trial_end"),
        collection_paused=data.get("pause_collection") is not None,
        paused_unpaid=data.get("status_details") is not None and _is_paused_unpaid(data),
    )


def _is_paused_unpaid(data: Mapping[str, Any]) -> bool:
    """Say whether Stripe paused a subscription because nobody paid it, as an account may have it since 2026-09-30.endive."""
    paused = optional_mapping(optional_mapping(data, "status_details"), "paused")
    return optional_text(optional_mapping(paused, "subscription"), "type") in _PAYMENT_FAILURES


def has_more_items(data: Mapping[str, Any]) -> bool:
    """Say whether a subscription has more items than came with it: Stripe shows ten of a list, and twenty may be in this one.

    https://docs.stripe.com/api/subscription_items/list
    """
    return optional_mapping(data, "items").get("has_more") is True


def has_one_period_for_all(data: Mapping[str, Any]) -> bool:
    """Say whether a subscription's items, of which there are several, have no periods of their own: before 2025-03-31.basil none had.

    Which of them the one period is of is not to be told, where they are billed at different intervals.
    """
    items = optional_mapping(data, "items").get("data") or ()
    return len(items) > 1 and all(item.get("current_period_end") is None for item in items)


def _item_id(item: ItemView) -> str:
    return item.item_id


def _item_view(value: object, subscription: Mapping[str, Any]) -> ItemView:
    item = mapping(value, "items.data[]")
    price = mapping(item.get("price") or item.get("plan"), "items.data[].price")
    # Since 2025-03-31.basil the period stands on the item; before, on the subscription.
    period = item if item.get("current_period_end") is not None else subscription
    quantity = whole(item, "quantity", 1)  # metered prices have none
    if quantity > LARGEST_QUANTITY:
        raise MalformedError("quantity is too large")
    return ItemView(
        item_id=text(item, "id"),
        price_id=text(price, "id"),
        lookup_key=optional_text(price, "lookup_key"),
        quantity=quantity,
        period_start=seconds(period, "current_period_start"),
        period_end=seconds(period, "current_period_end"),
    )


def _invoice_view(data: Mapping[str, Any]) -> InvoiceView:
    transitions = optional_mapping(data, "status_transitions")
    asks_nothing = data.get("amount_due") == 0
    return InvoiceView(
        status=one_of(_INVOICE_STATUSES, data, "status"),
        created=seconds(data, "created"),
        subscription_id=reference(invoice_parent(data), "subscription"),
        billing_reason=optional_text(data, "billing_reason"),
        finalized_at=optional_seconds(transitions, "finalized_at"),
        attempted=data.get("attempted") is True,
        due_date=optional_seconds(data, "due_date"),
        asks_nothing=asks_nothing,
        from_balance=_from_balance(data) if asks_nothing else 0,
    )


def _from_balance(data: Mapping[str, Any]) -> int:
    """Say by how much less a customer has in his balance since an invoice; a draft has moved nothing.

    Below zero it is the customer's: https://docs.stripe.com/billing/customer/balance.
    """
    if data.get("ending_balance") is None:
        return 0
    return min(signed(data, "ending_balance"), 0) - min(signed(data, "starting_balance"), 0)


def invoice_parent(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give where the subscription and its metadata stand: `parent.subscription_details` since basil, before on the invoice."""
    parent = data.get("parent")
    if is_mapping(parent):
        return mapping(parent.get("subscription_details") or {}, "parent.subscription_details")
    details = mapping(data.get("subscription_details") or {}, "subscription_details")
    return {"subscription": data.get("subscription"), "metadata": details.get("metadata")}


def _invoice_payment_view(data: Mapping[str, Any]) -> InvoicePaymentView:
    invoice_id = reference(data, "invoice")
    if invoice_id is None:
        raise MalformedError("invoice is absent")
    return InvoicePaymentView(
        status=text(data, "status"),
        invoice_id=invoice_id,
        payment_intent_id=reference(optional_mapping(data, "payment"), "payment_intent"),
    )


def _charge_view(data: Mapping[str, Any]) -> ChargeView:
    return ChargeView(
        status=text(data, "status"),
        amount=whole(data, "amount"),
        amount_refunded=whole(data, "amount_refunded", 0),
        payment_intent_id=reference(data, "payment_intent"),
    )


def _refund_view(data: Mapping[str, Any]) -> RefundView:
    return RefundView(
        status=one_of(_REFUND_STATUSES, data, "status"),
        amount=whole(data, "amount"),
        payment_intent_id=reference(data, "payment_intent"),
        charge_id=reference(data, "charge"),
    )


def _dispute_view(data: Mapping[str, Any]) -> DisputeView:
    return DisputeView(
        status=one_of(_DISPUTE_STATUSES, data, "status"),
        amount=whole(data, "amount"),
        payment_intent_id=reference(data, "payment_intent"),
        charge_id=reference(data, "charge"),
    )


def _customer_view(data: Mapping[str, Any]) -> CustomerView:
    return CustomerView(CustomerStatus.DELETED if data.get("deleted") is True else CustomerStatus.LIVE)


VIEWS: Mapping[ObjectKind, Callable[[Mapping[str, Any]], View]] = {
    ObjectKind.CHECKOUT_SESSION: _session_view,
    ObjectKind.SUBSCRIPTION: _subscription_view,
    ObjectKind.INVOICE: _invoice_view,
    ObjectKind.INVOICE_PAYMENT: _invoice_payment_view,
    ObjectKind.CHARGE: _charge_view,
    ObjectKind.REFUND: _refund_view,
    ObjectKind.DISPUTE: _dispute_view,
    ObjectKind.CUSTOMER: _customer_view,
}
