"""What a customer has bought, and was given, as facts: the content of the customer's row.

Gathered from every object that belongs to the customer, and from the grants; holds no result of a policy, so that a changed policy reaches
everybody at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from billing_service.domain.frozen import frozen
from billing_service.domain.grant import GrantFacts
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Fact, is_deleted_customer, is_paid_session
from billing_service.domain.payments import DisputeStanding, Payments, PaymentView, worst
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
_COMPLETE = SessionStatus.COMPLETE
_PAID, _OPEN, _VOID = InvoiceStatus.PAID, InvoiceStatus.OPEN, InvoiceStatus.VOID
_PAST = frozenset({InvoiceStatus.PAID, InvoiceStatus.VOID})  # one that was written off may still be paid
_GIVEN_UP = frozenset({InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID})
_FIRST, _RENEWAL, _CHANGE = (
    "subscription_create",
    "subscription_cycle",
    "subscription_update",
)  # Stripe's billing_reason
BEGAN_S = 60  # a change is made at once: its invoice and the period that begins with it are of one moment
LATER_S = 5  # at Stripe the invoice of a change is made a second or so after the period that it begins
RENEWED_S = 12 * 3600  # within which a renewal has its invoice; the shortest period is of a day
UNSETTLED = frozenset({InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID})


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
    bills = _Bills(known, payments)
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


@frozen
class PastInvoice:
    """An invoice that nobody is asked to pay any more. Of those of a subscription only the latest, the latest paid one, and what went
    void since that may still say anything: a customer may have hundreds, and what an event costs is not to grow with them.
    """

    subscription_id: str | None
    # None: it may still say something. Void, and the first one or one of a change, which may have begun a period that was never paid;
    # or of a change that asked for nothing.
    paid: bool | None
    created: int


def past_invoice(state: ObjectState) -> PastInvoice | None:
    """Say what a past invoice is kept under; None for every other object. What either register holds open is not past.

    One that is disputed is not past either, which its own object does not say: see `disputed_invoices`.
    """
    for register in (state.payload, state.read):
        if register is not None and not (isinstance(register.view, InvoiceView) and register.view.status in _PAST):
            return None
    view = state.view
    if not isinstance(view, InvoiceView):
        return None
    may_have_begun = view.status is _VOID and view.billing_reason in {_FIRST, _CHANGE}
    paid = None if may_have_begun or _is_free_change(view) else view.status is _PAID
    return PastInvoice(view.subscription_id, paid, view.created)


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


class _Bills:
    """The invoices of a customer, and the sessions that settled first ones."""

    def __init__(self, known: _Known, payments: Payments) -> None:
        self.payments = payments
        self._invoices = known.invoices
        self._by_id = {state.object_id: view for state, view in known.invoices}
        self._disputed = payments.disputed_invoices()
        # A page that was completed: where nothing was paid, its payment is awaited, or failed; the first invoice may never have been told of.
        self._never_began = {view.subscription_id for _, view in known.sessions if view.status is _COMPLETE}
        self._first_owed = set(self._never_began)
        for _, view in known.invoices:
            if view.status is not _PAID and view.billing_reason == _FIRST:
                self._first_owed.add(view.subscription_id)
                if _is_first_unpaid(view):
                    self._never_began.add(view.subscription_id)
        self._settled = {view.subscription_id for _, view in known.sessions if is_paid_session(view)}
        self._settled.update([view.subscription_id for _, view in known.invoices if self._is_payment(view)])

    def _is_payment(self, view: InvoiceView) -> bool:
        """Say whether an invoice shows that something was paid, if not by itself then before it."""
        return view.status is _PAID and not (view.subscription_id in self._first_owed and _is_free_change(view))

    def invoice(self, invoice_id: str | None) -> InvoiceView | None:
        return self._by_id.get(invoice_id or "")

    def deciding(self, subscription_id: str, subscription: SubscriptionView) -> str | None:
        """Give the id of the invoice that says how the period stands: the latest, unless that says nothing of it.

        One of a change that went void does not: Stripe itself takes it back where the change was to wait for its payment
        (`pending_if_incomplete`); the change was not made, and what was before it stands.
        https://docs.stripe.com/billing/subscriptions/pending-updates
        A change that was made began a period with its invoice, if it was to be paid by it at once; that one counts also where
        another change was dropped since.
        Nor does one of a change that asked for nothing, while the first payment is owed or another is overdue: Stripe credits what
        nobody paid as well. https://docs.stripe.com/billing/subscriptions/prorations
        None: it is one that nobody told us of.
        """
        latest_id = subscription.latest_invoice_id
        latest = self.invoice(latest_id)
        if latest is None or self._speaks(subscription_id, subscription, latest):
            return latest_id
        others = [
            (view.created, state.object_id)
            for state, view in self._invoices
            if view.subscription_id == subscription_id and self._speaks(subscription_id, subscription, view)
        ]
        return max(others)[1] if others else None

    def _speaks(self, subscription_id: str, subscription: SubscriptionView, view: InvoiceView) -> bool:
        if _is_free_change(view):
            return subscription_id in self._settled and subscription.status is not SubscriptionStatus.PAST_DUE
        return not _is_dropped(subscription, view)

    def unpaid(
        self, subscription_id: str, subscription: SubscriptionView, deciding_id: str | None
    ) -> list[tuple[ObjectState, InvoiceView]]:
        """Give the open invoices of a subscription, and the deciding one where that went void or was written off."""
        return [
            (state, view)
            for state, view in self._invoices
            if view.subscription_id == subscription_id
            and (view.status is _OPEN or (state.object_id == deciding_id and view.status in UNSETTLED))
            and not _is_dropped(subscription, view)
        ]

    def dispute(self, subscription_id: str, subscription: SubscriptionView) -> DisputeStanding | None:
        """Say how the worst dispute of a subscription's payments stands.

        One that is open counts whatever it is of: customers dispute what was charged weeks ago. One that was lost counts until
        later periods began of all that it may have paid for, and the latest of them is paid.
        """
        if not self._disputed:
            return None
        own = [(state.object_id, view) for state, view in self._invoices if view.subscription_id == subscription_id]
        found = [(self.payments.dispute_of_invoice(id_), view) for id_, view in own if id_ in self._disputed]
        return worst(
            standing
            for standing, view in found
            if standing is DisputeStanding.OPEN or not _is_made_up_for(view, subscription, [other for _, other in own])
        )

    def settled(self, subscription_id: str) -> bool:
        return subscription_id in self._settled

    def never_began(self, subscription_id: str) -> bool:
        """Say whether a subscription of which nothing is `settled` is still at its first payment, whatever period runs."""
        return subscription_id in self._never_began

    def is_first(self, subscription_id: str, subscription: SubscriptionView, invoice: InvoiceView | None) -> bool:
        """Say whether a subscription of which nothing is `settled` is at its first payment by its period and the invoice that decides.

        A change may come before that payment. Where nobody told us of any other invoice, as of what was there before us, there was
        one before the change all the same, and it was most likely paid.
        """
        reason = invoice.billing_reason if invoice else None
        if reason is not None and reason != _CHANGE:
            return reason == _FIRST
        if any(item.period_start > subscription.start for item in subscription.items):
            return False
        latest = self.invoice(subscription.latest_invoice_id)
        return latest is None or latest.billing_reason != _CHANGE or subscription_id in self._first_owed


def _subscription(
    state: ObjectState, view: SubscriptionView, bills: _Bills, gone: Collection[str | None]
) -> SubscriptionFacts:
    subscription_id = state.object_id
    invoice_id = bills.deciding(subscription_id, view)
    invoice, before = bills.invoice(invoice_id), None
    is_latest = invoice_id == view.latest_invoice_id
    if view.status is SubscriptionStatus.PAST_DUE and not is_latest and not _is_of_running(view, invoice):
        invoice, before = None, invoice  # that one is of before: the invoice that is overdue is not known
    unpaid = bills.unpaid(subscription_id, view, invoice_id)
    failed = {one.object_id: time for one, bill in unpaid if (time := _failed_time(one, bill)) is not None}
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
        failed_time=_first_failure(unpaid, failed),
        due_time=_due([bill for _, bill in unpaid]) if unpaid else _overdue(state, view, invoice, before),
        collection_paused=view.collection_paused,
        dispute=bills.dispute(subscription_id, view),
        customer_deleted=state.stripe_customer_id in gone,
        paused_unpaid=view.paused_unpaid,
        invoice_failed=invoice_id in failed if invoice is not None and invoice.status in _GIVEN_UP else None,
    )


def _is_of_running(subscription: SubscriptionView, invoice: InvoiceView | None) -> bool:
    return invoice is not None and invoice.created >= max(item.period_start for item in subscription.items)


def _is_made_up_for(lost: InvoiceView, subscription: SubscriptionView, own: Iterable[InvoiceView]) -> bool:
    if any(_may_have_paid_for(lost, item) for item in subscription.items):
        return False
    paid = [view for view in own if view.status is _PAID and view.created > lost.created]
    return any(_is_of_running(subscription, view) for view in paid)


def _may_have_paid_for(invoice: InvoiceView, item: ItemView) -> bool:
    """Say whether an invoice may be of the period of an item that runs; its lines are not known.

    That of a renewal is of the items whose period began with it. Every other is of whatever ran when it was made.
    """
    if invoice.billing_reason == _RENEWAL:
        return item.period_start <= invoice.created < item.period_start + RENEWED_S
    return item.period_start <= invoice.created


def _is_first_unpaid(bill: InvoiceView) -> bool:
    """Say whether it is a first invoice that nobody has paid, whatever period runs: one was given up, or sent to be paid.

    One that is sent begins as a draft, and nobody tells that it is open since. One that is charged is open for days at most.
    """
    is_sent = bill.status is InvoiceStatus.DRAFT or (bill.status is _OPEN and bill.due_date is not None)
    return bill.billing_reason == _FIRST and (is_sent or bill.status in _GIVEN_UP)


def _failed_time(state: ObjectState, bill: InvoiceView) -> int | None:
    """Say when a payment of an invoice first failed. One that was written off after a try failed, also where nobody told us when.

    One that is sent to be paid fails at no time: whoever pays may try as often as he likes until it is due.
    """
    if bill.due_date is not None:
        return None
    told = state.facts.get(Fact.PAYMENT_FAILED)
    if told is None and bill.attempted and bill.status is InvoiceStatus.UNCOLLECTIBLE:
        return bill.finalized_at or bill.created
    return told


def _first_failure(unpaid: Iterable[tuple[ObjectState, InvoiceView]], failed: Mapping[str, int]) -> int | None:
    """Say when the first of the invoices that are not paid failed, where any did: one that was sent counts from when it was due."""
    if not failed:
        return None
    return min(time for one, bill in unpaid if (time := failed.get(one.object_id, bill.due_date)) is not None)


def _due(unpaid: Iterable[InvoiceView]) -> int:
    return min(bill.due_date or bill.finalized_at or bill.created for bill in unpaid)


def _overdue(
    state: ObjectState, view: SubscriptionView, invoice: InvoiceView | None, before: InvoiceView | None
) -> int | None:
    """Say since when a subscription is past due by an invoice that nobody told us of: as it first said so itself.

    `before` is the invoice that counts where the latest is of a change that was dropped. Then the one that is overdue came in between.
    """
    if view.status is not SubscriptionStatus.PAST_DUE or (invoice is not None and invoice.status is _PAID):
        return None
    told = state.overdue or {}
    if before is not None:
        return min((time for time in told.values() if time > before.created), default=state.told_time)
    return told.get(view.latest_invoice_id or "", state.told_time)


def _is_dropped(subscription: SubscriptionView, view: InvoiceView) -> bool:
    return view.status is _VOID and view.billing_reason == _CHANGE and not _began(subscription, view)


def _is_free_change(view: InvoiceView) -> bool:
    """Say whether an invoice is paid because it asked for nothing: of a change to less, or for which something is credited."""
    return view.asks_nothing and view.status is _PAID and view.billing_reason == _CHANGE


def _began(subscription: SubscriptionView, invoice: InvoiceView) -> bool:
    """Say whether a period that runs, not the first, began with an invoice: what began later did so with another one."""
    return any(
        max(invoice.created - LATER_S, subscription.start + 1) <= item.period_start <= invoice.created + BEGAN_S
        for item in subscription.items
    )


def _purchase(
    state: ObjectState, view: SessionView, payments: Payments, gone: Collection[str | None]
) -> PurchaseFacts | None:
    if view.mode != "payment" or view.status is not _COMPLETE or view.plan_key is None:
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
