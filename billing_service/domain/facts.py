"""What a customer has bought, as facts: the content of the customer's row.

Gathered from every object that belongs to the customer; holds no result of a policy, so that a changed policy reaches
everybody at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import (
    Fact,
    InvoiceStatus,
    InvoiceView,
    ItemView,
    PaymentStatus,
    SessionStatus,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
)

OVER = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})
UNSETTLED = frozenset({InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID})


@dataclass(frozen=True)
class SubscriptionFacts:
    """One subscription."""

    subscription_id: str
    status: SubscriptionStatus
    start: int
    items: tuple[ItemView, ...]
    cancel_at: int | None
    cancel_at_period_end: bool
    ended_at: int | None
    trial_end: int | None
    invoice_status: InvoiceStatus | None  # of the latest invoice; None: there is none, or it is not known yet
    invoice_known: bool  # False: there is a latest invoice and nothing was heard of it yet
    first_payment: bool  # whether the latest invoice is the subscription's first
    first_payment_settled: bool  # the checkout session that made it was seen paid
    failed_time: int | None  # the first failure known of an invoice that is not paid
    due_time: int | None  # when the earliest invoice that is not paid was finalised, or made

    @property
    def is_live(self) -> bool:
        """Whether it stands in the way of buying another plan of its group."""
        return self.status not in OVER


@dataclass(frozen=True)
class PurchaseFacts:
    """One one-time purchase: a completed checkout session whose payment has not failed."""

    checkout_session_id: str
    plan_key: str
    quantity: int
    created: int
    paid_time: int | None  # None: the payment is on its way


@dataclass(frozen=True)
class CustomerFacts:
    """All that a customer has bought, in the order in which it began."""

    subscriptions: tuple[SubscriptionFacts, ...] = ()
    purchases: tuple[PurchaseFacts, ...] = ()


NO_FACTS = CustomerFacts()


def gather(objects: Iterable[ObjectState]) -> CustomerFacts:
    """Fold the objects of one customer, in any order, into facts."""
    known = sorted(objects, key=lambda state: state.object_id)
    invoices = {state.object_id: state for state in known if isinstance(state.view, InvoiceView)}
    sessions = [(state, state.view) for state in known if isinstance(state.view, SessionView)]
    subscriptions = [
        _subscription(state.object_id, state.view, invoices, [view for _, view in sessions])
        for state in known
        if isinstance(state.view, SubscriptionView)
    ]
    purchases = [purchase for state, view in sessions if (purchase := _purchase(state, view))]
    return CustomerFacts(
        subscriptions=tuple(sorted(subscriptions, key=lambda s: (s.start, s.subscription_id))),
        purchases=tuple(sorted(purchases, key=lambda p: (p.created, p.checkout_session_id))),
    )


def _subscription(
    subscription_id: str, view: SubscriptionView, invoices: dict[str, ObjectState], sessions: list[SessionView]
) -> SubscriptionFacts:
    latest = invoices.get(view.latest_invoice_id or "")
    latest_view = latest.view if latest else None
    invoice = latest_view if isinstance(latest_view, InvoiceView) else None
    own = [
        (s, s.view)
        for s in invoices.values()
        if isinstance(s.view, InvoiceView) and s.view.subscription_id == subscription_id
    ]
    unpaid = [(s, v) for s, v in own if v.status is InvoiceStatus.OPEN or (s is latest and v.status in UNSETTLED)]
    failures = [s.facts[Fact.PAYMENT_FAILED] for s, _ in unpaid if Fact.PAYMENT_FAILED in s.facts]
    return SubscriptionFacts(
        subscription_id=subscription_id,
        status=view.status,
        start=view.start,
        items=view.items,
        cancel_at=view.cancel_at,
        cancel_at_period_end=view.cancel_at_period_end,
        ended_at=view.ended_at,
        trial_end=view.trial_end,
        invoice_status=invoice.status if invoice else None,
        invoice_known=invoice is not None or view.latest_invoice_id is None,
        first_payment=_is_first(view, invoice),
        first_payment_settled=any(
            s.subscription_id == subscription_id
            and s.status is SessionStatus.COMPLETE
            and s.payment_status is not PaymentStatus.UNPAID
            for s in sessions
        ),
        failed_time=min(failures, default=None),
        due_time=min((v.finalized_at or v.created for _, v in unpaid), default=None),
    )


def _is_first(view: SubscriptionView, invoice: InvoiceView | None) -> bool:
    if invoice is not None and invoice.billing_reason is not None:
        return invoice.billing_reason == "subscription_create"
    return all(item.period_start <= view.start for item in view.items)


def _purchase(state: ObjectState, view: SessionView) -> PurchaseFacts | None:
    if view.mode != "payment" or view.status is not SessionStatus.COMPLETE or view.plan_key is None:
        return None  # without our metadata it was not sold by us
    paid = view.payment_status is not PaymentStatus.UNPAID
    if not paid and Fact.PAYMENT_FAILED in state.facts:
        return None
    return PurchaseFacts(
        checkout_session_id=state.object_id,
        plan_key=view.plan_key,
        quantity=view.quantity,
        created=view.created,
        paid_time=state.facts.get(Fact.PAID, view.created) if paid else None,
    )
