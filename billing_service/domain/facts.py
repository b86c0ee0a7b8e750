"""What a customer has bought, and was given, as facts: the content of the customer's row.

Gathered from every object that belongs to the customer, and from the grants; holds no result of a policy, so that a changed policy reaches
everybody at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from billing_service.domain.bills import GIVEN_UP, Bills, due, failed_time, first_failure, is_of_running
from billing_service.domain.frozen import frozen
from billing_service.domain.grant import GrantFacts
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Fact, is_deleted_customer, is_paid_session
from billing_service.domain.payments import DisputeStanding, Payments, PaymentView
from billing_service.domain.views import (
    CustomerView,
    InvoiceStatus,
    InvoiceView,
    ItemView,
    ObjectKind,
    SessionStatus,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
)

OVER = frozenset({SubscriptionStatus.CANCELED, SubscriptionStatus.INCOMPLETE_EXPIRED})


@frozen
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
    invoice_status: InvoiceStatus | None  # of the invoice that decides; None: there is none, or it is not known yet
    invoice_known: bool  # False: there is a latest invoice and nothing was heard of it yet
    first_payment: bool  # whether nothing was paid yet, as far as is known, and the first period runs or was never paid
    first_payment_settled: bool  # an invoice of it, or the checkout session that made it, was seen paid
    failed_time: int | None  # the first failure known of an invoice that is not paid
    # When the earliest invoice that is not paid was due, or finalised, or made; or, none known, what is overdue was told of.
    due_time: int | None
    collection_paused: bool = False
    dispute: DisputeStanding | None = None
    customer_deleted: bool = False
    # Whether a payment of the invoice that decides failed, where that was given up; None: it was not, or a release before this wrote it.
    invoice_failed: bool | None = None
    paused_unpaid: bool = False  # paused by Stripe because a payment failed, not by anybody's wish or with a trial
    paid_apart: tuple[str, ...] = ()  # items whose period is paid although an invoice, of others, is not

    @property
    def is_live(self) -> bool:
        """Whether it stands in the way of buying another plan of its group: one whose Stripe customer is gone ended with it."""
        return self.status not in OVER and not self.customer_deleted


@frozen
class PurchaseFacts:
    """One one-time purchase: a completed checkout session whose payment has not failed."""

    checkout_session_id: str
    plan_key: str
    quantity: int
    created: int
    paid_time: int | None  # None: the payment is on its way
    refunded: int = 0  # minor units, as the refunds stand now
    fully_refunded: bool = False
    dispute: DisputeStanding | None = None
    customer_deleted: bool = False


@frozen(whole=True)
class CustomerFacts:
    """All that a customer has bought, in the order in which it began, and what was given to them by hand.

    Written whole: a row that is written without a word of grants keeps those that it has, as it does for a release that knows of none
    (migration 0008).
    """

    subscriptions: tuple[SubscriptionFacts, ...] = ()
    purchases: tuple[PurchaseFacts, ...] = ()
    grants: tuple[GrantFacts, ...] = ()  # in the order of their ids

    @property
    def had_trial(self) -> bool:
        """Whether any subscription ever began with a trial."""
        return any(subscription.trial_end is not None for subscription in self.subscriptions)


NO_FACTS = CustomerFacts()


def gather(objects: Iterable[ObjectState], kept: Iterable[PurchaseFacts] = ()) -> CustomerFacts:
    """Fold the objects of one customer, in any order, into facts. `kept` are purchases of whose sessions none is among the objects."""
    known = _Known(objects)
    payments = Payments.of(known.payments)
    bills = Bills(known.invoices, known.sessions, payments)
    subscriptions = [_subscription(state, view, bills, known.gone) for state, view in known.subscriptions]
    purchases = [
        purchase
        for state, view in known.sessions
        if (purchase := _purchase(state, view, payments, known.gone)) is not None
    ]
    purchases.extend(kept)
    return CustomerFacts(
        subscriptions=tuple(sorted(subscriptions, key=lambda s: (s.start, s.subscription_id))),
        purchases=tuple(sorted(purchases, key=lambda p: (p.created, p.checkout_session_id))),
    )


class _Known:
    """The objects of a customer by what they are, each with its view, in the order of their ids."""

    def __init__(self, objects: Iterable[ObjectState]) -> None:
        self.subscriptions: list[tuple[ObjectState, SubscriptionView]] = []
        self.invoices: list[tuple[ObjectState, InvoiceView]] = []
        self.sessions: list[tuple[ObjectState, SessionView]] = []
        self.payments: list[tuple[ObjectState, PaymentView]] = []
        self.gone: set[str | None] = set()  # Stripe customers
        for state in sorted(objects, key=_object_id):
            view = state.view
            if isinstance(view, InvoiceView):
                self.invoices.append((state, view))
            elif isinstance(view, SessionView):
                self.sessions.append((state, view))
            elif isinstance(view, SubscriptionView):
                self.subscriptions.append((state, view))
            elif not isinstance(view, CustomerView):
                self.payments.append((state, view))
            elif is_deleted_customer(view):
                self.gone.add(state.object_id)


def _object_id(state: ObjectState) -> str:
    return state.object_id


def disputed_invoices(objects: Collection[ObjectState]) -> frozenset[str]:
    """Give the invoices of which a payment is disputed, or was with the bank's word against us, as far as these objects tie them."""
    if not any(state.kind is ObjectKind.DISPUTE for state in objects):  # as it nearly always is
        return frozenset()
    return Payments.of(_Known(objects).payments).disputed_invoices()


def is_settled_purchase(state: ObjectState) -> bool:
    """Say whether an object is a checkout session of which a one-time purchase was paid, by every register.

    Only what arrives with it, or hangs on it, says anything new of such a purchase, or the end of its Stripe customer. Until then
    what the customer's row has of it is what there is, and it is not loaded. A release that makes other facts of the same sessions gathers
    everybody's anew, from all of them (`flows/look_again.py`).
    """
    if state.kind is not ObjectKind.CHECKOUT_SESSION:
        return False
    views = [register.view for register in (state.payload, state.read) if register is not None]
    return all(isinstance(view, SessionView) and view.mode == "payment" and is_paid_session(view) for view in views)


def _subscription(
    state: ObjectState, view: SubscriptionView, bills: Bills, gone: Collection[str | None]
) -> SubscriptionFacts:
    subscription_id = state.object_id
    invoice_id = bills.deciding(subscription_id, view)
    invoice, before = bills.invoice(invoice_id), None
    is_latest = invoice_id == view.latest_invoice_id
    if view.status is SubscriptionStatus.PAST_DUE and not is_latest and not is_of_running(view, invoice):
        invoice, before = None, invoice  # that one is of before: the invoice that is overdue is not known
    unpaid = bills.unpaid(subscription_id, view, invoice_id)
    failed = {one.object_id: time for one, bill in unpaid if (time := failed_time(one, bill)) is not None}
    settled = bills.settled(subscription_id)
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
        first_payment=not settled
        and (bills.never_began(subscription_id) or bills.is_first(subscription_id, view, invoice)),
        first_payment_settled=settled,
        failed_time=first_failure(unpaid, failed),
        due_time=due([bill for _, bill in unpaid]) if unpaid else _overdue(state, view, invoice, before),
        collection_paused=view.collection_paused,
        dispute=bills.dispute(subscription_id, view),
        customer_deleted=state.stripe_customer_id in gone,
        paused_unpaid=view.paused_unpaid,
        paid_apart=bills.paid_apart(subscription_id, view, invoice_id),
        invoice_failed=invoice_id in failed if invoice is not None and invoice.status in GIVEN_UP else None,
    )


def _overdue(
    state: ObjectState, view: SubscriptionView, invoice: InvoiceView | None, before: InvoiceView | None
) -> int | None:
    """Say since when a subscription is past due by an invoice that nobody told us of: as it first said so itself.

    `before` is the invoice that counts where the latest is of a change that was dropped. Then the one that is overdue came in between.
    """
    if view.status is not SubscriptionStatus.PAST_DUE or (invoice is not None and invoice.status is InvoiceStatus.PAID):
        return None
    told = state.overdue or {}
    if before is not None:
        return min((time for time in told.values() if time > before.created), default=state.told_time)
    return told.get(view.latest_invoice_id or "", state.told_time)


def _purchase(
    state: ObjectState, view: SessionView, payments: Payments, gone: Collection[str | None]
) -> PurchaseFacts | None:
    if view.mode != "payment" or view.status is not SessionStatus.COMPLETE or view.plan_key is None:
        return None  # without our metadata it was not sold by us
    paid = is_paid_session(view)
    if not paid and Fact.PAYMENT_FAILED in state.facts:
        return None
    refunded = payments.refunded(view.payment_intent_id)
    total = view.amount if view.amount is not None else payments.charged(view.payment_intent_id)
    return PurchaseFacts(
        checkout_session_id=state.object_id,
        plan_key=view.plan_key,
        quantity=view.quantity,
        created=view.created,
        paid_time=_paid_time(state, view) if paid else None,
        refunded=refunded,
        fully_refunded=total is not None and 0 < total <= refunded,
        dispute=payments.dispute(view.payment_intent_id),
        customer_deleted=state.stripe_customer_id in gone,
    )


def _paid_time(state: ObjectState, view: SessionView) -> int:
    """Say when a session was paid: to the second where an event carried it. A read that came before any word of it can only guess."""
    if state.payload is not None and is_paid_session(state.payload.view):
        return state.payload.created
    return state.facts.get(Fact.PAID, view.created)
