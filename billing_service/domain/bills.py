"""What a subscription's invoices say: which of them decides how its period stands, what is unpaid, and since when.

The lines of invoices are not known: what one is of is told by its reason and by when it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from billing_service.domain.frozen import frozen
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Fact, is_paid_session
from billing_service.domain.payments import DisputeStanding, Payments, worst
from billing_service.domain.views import (
    InvoiceStatus,
    InvoiceView,
    ItemView,
    SessionStatus,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
)

_COMPLETE = SessionStatus.COMPLETE
_PAID, _OPEN, _VOID = InvoiceStatus.PAID, InvoiceStatus.OPEN, InvoiceStatus.VOID
_PAST = frozenset({InvoiceStatus.PAID, InvoiceStatus.VOID})  # one that was written off may still be paid
GIVEN_UP = frozenset({InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID})
# Stripe's billing_reason.
_FIRST, _RENEWAL, _CHANGE = (
    "subscription_create",
    "subscription_cycle",
    "subscription_update",
)
# Asked for beside what a period costs: items that were put on the subscription by hand, or wait for their own interval.
_BY_HAND = "manual"
_EXTRAS = frozenset({_BY_HAND, "automatic_pending_invoice_item_invoice"})
_AMID = _EXTRAS | {_CHANGE, "subscription_threshold"}  # another invoice came before one of these
BEGAN_S = 60  # a change is made at once: its invoice and the period that begins with it are of one moment
LATER_S = 5  # at Stripe the invoice of a change is made a second or so after the period that it begins
RENEWED_S = 12 * 3600  # within which a renewal has its invoice; the shortest period is of a day
UNSETTLED = frozenset({InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE, InvoiceStatus.VOID})


@frozen
class PastInvoice:
    """An invoice that nobody is asked to pay any more. Of those of a subscription only the latest, the latest paid one, and what went
    void since that may still say anything: a customer may have hundreds, and what an event costs is not to grow with them.
    """

    subscription_id: str | None  # None: it says nothing of any, unless that names it as the latest
    # None: it may still say something. Void, and the first one or one of a change, which may have begun a period that was never paid;
    # or it asked for nothing, being of a change or an extra, or as a balance covered it.
    paid: bool | None
    created: int


def past_invoice(state: ObjectState) -> PastInvoice | None:
    """Say what a past invoice is kept under; None for every other object. What either register holds open is not past.

    One that is disputed is not past either, which its own object does not say: see `facts.disputed_invoices`.
    """
    for register in (state.payload, state.read):
        if register is not None and not (isinstance(register.view, InvoiceView) and register.view.status in _PAST):
            return None
    view = state.view
    if not isinstance(view, InvoiceView):
        return None
    may_have_begun = view.status is _VOID and view.billing_reason in {_FIRST, _CHANGE}
    paid = None if may_have_begun or _is_free(view) else view.status is _PAID
    says_nothing = view.status is _VOID and view.billing_reason in _EXTRAS
    return PastInvoice(None if says_nothing else view.subscription_id, paid, view.created)


class Bills:
    """The invoices of a customer, and the sessions that settled first ones."""

    def __init__(
        self,
        invoices: Sequence[tuple[ObjectState, InvoiceView]],
        sessions: Sequence[tuple[ObjectState, SessionView]],
        payments: Payments,
    ) -> None:
        """Take all of a customer's, each with its view, in the order of their ids."""
        self.payments = payments
        self._invoices = invoices
        self._by_id = {state.object_id: view for state, view in invoices}
        self._disputed = payments.disputed_invoices()
        # A page that was completed: where nothing was paid, its payment is awaited, or failed; the first invoice may never have been told of.
        self._never_began = {view.subscription_id for _, view in sessions if view.status is _COMPLETE}
        self._first_owed = set(self._never_began)
        self._from_balance = _from_balance([view for _, view in invoices])
        for _, view in invoices:
            if view.status is not _PAID and view.billing_reason == _FIRST:
                self._first_owed.add(view.subscription_id)
                if _is_first_unpaid(view):
                    self._never_began.add(view.subscription_id)
        self._settled = {view.subscription_id for _, view in sessions if is_paid_session(view)}
        self._settled.update([view.subscription_id for _, view in invoices if self._is_payment(view)])

    def _is_payment(self, view: InvoiceView) -> bool:
        """Say whether an invoice shows that something was paid, if not by itself then before it.

        What came from the customer's balance was, unless it is the credit for what was never paid.
        """
        return view.status is _PAID and (view.subscription_id not in self._first_owed or self._took_money(view))

    def _took_money(self, view: InvoiceView) -> bool:
        return not _is_free(view) or (view.from_balance > 0 and self._from_balance.get(view.subscription_id, 0) > 0)

    def invoice(self, invoice_id: str | None) -> InvoiceView | None:
        """Give an invoice; None where nobody told us of it."""
        return self._by_id.get(invoice_id or "")

    def deciding(self, subscription_id: str, subscription: SubscriptionView) -> str | None:
        """Give the id of the invoice that says how the period stands: the latest, unless that says nothing of it.

        One of a change that went void does not: Stripe itself takes it back where the change was to wait for its payment
        (`pending_if_incomplete`); the change was not made, and what was before it stands.
        https://docs.stripe.com/billing/subscriptions/pending-updates
        A change that was made began a period with its invoice, if it was to be paid by it at once; that one counts also where
        another change was dropped since.
        Nor does one of a change that asked for nothing, where another is known that does, of the periods that run: Stripe credits
        what nobody paid as well. https://docs.stripe.com/billing/subscriptions/prorations
        An extra that was given up took nothing along.
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
        created, found = max(others, default=(0, None))
        may_stand = _is_free(latest) and self._is_settled_and_current(subscription_id, subscription)
        is_told = found is not None and (_began(subscription, latest) or created >= _first_begun(subscription))
        return latest_id if may_stand and not is_told else found

    def _is_settled_and_current(self, subscription_id: str, subscription: SubscriptionView) -> bool:
        return subscription_id in self._settled and subscription.status is not SubscriptionStatus.PAST_DUE

    def _speaks(self, subscription_id: str, subscription: SubscriptionView, view: InvoiceView) -> bool:
        if _is_free(view) and view.billing_reason not in _AMID:
            return subscription_id in self._settled
        if _is_free(view):
            pays = view.from_balance > 0 or (view.from_balance == 0 and _began(subscription, view))
            return pays and self._is_settled_and_current(subscription_id, subscription)
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

    def paid_apart(
        self, subscription_id: str, subscription: SubscriptionView, deciding_id: str | None
    ) -> tuple[str, ...]:
        """Give the items, by their ids, whose period that runs was paid although something is not: that is of others.

        Items of several intervals are renewed by invoices of their own, and the subscription is past due by any of them. One that was
        written off counts with what is not paid, whatever came after it; one that went void before the one that decides is not loaded.
        """
        if len({item.period_start for item in subscription.items}) == 1:  # as it nearly always is
            return ()
        own = [(state.object_id, view) for state, view in self._invoices if view.subscription_id == subscription_id]
        owed = [view for id_, view in own if view.status not in _PAST or (id_ == deciding_id and view.status is _VOID)]
        if not owed:
            return ()
        paid = max((view.created for _, view in own if view.status is _PAID and not _is_free(view)), default=0)
        return tuple(
            item.item_id
            for item in subscription.items
            if item.period_start <= paid and not any(_may_have_paid_for(view, item) for view in owed)
        )

    def dispute(self, subscription_id: str, subscription: SubscriptionView) -> DisputeStanding | None:
        """Say how the worst dispute of a subscription's payments stands.

        One that is open counts whatever it is of: customers dispute what was charged weeks ago. One that was lost counts until
        later periods began of all that it may have paid for, and the latest of them is paid.
        """
        if not self._disputed:
            return None
        own = [(state.object_id, view) for state, view in self._invoices if view.subscription_id == subscription_id]
        found = [(self.payments.dispute_of_invoice(id_), view) for id_, view in own if id_ in self._disputed]
        paid = [view for _, view in own if view.status is _PAID and self._took_money(view)]
        return worst(
            standing
            for standing, view in found
            if standing is DisputeStanding.OPEN or not _is_made_up_for(view, subscription, paid)
        )

    def settled(self, subscription_id: str) -> bool:
        """Say whether anything was ever paid for a subscription, as far as is known."""
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
        if reason in {_FIRST, _RENEWAL}:
            return reason == _FIRST
        if any(item.period_start > subscription.start for item in subscription.items):
            return False
        latest = self.invoice(subscription.latest_invoice_id)
        return latest is None or latest.billing_reason not in _AMID or subscription_id in self._first_owed


def _first_begun(subscription: SubscriptionView) -> int:
    """Say when the first of the periods that run began."""
    return min(item.period_start for item in subscription.items)


def is_of_running(subscription: SubscriptionView, invoice: InvoiceView | None) -> bool:
    """Say whether an invoice was made in the last of the periods that run, or later."""
    return invoice is not None and invoice.created >= max(item.period_start for item in subscription.items)


def _is_made_up_for(lost: InvoiceView, subscription: SubscriptionView, paid: Iterable[InvoiceView]) -> bool:
    if any(_may_have_paid_for(lost, item) for item in subscription.items):
        return False
    return any(view.created > lost.created and is_of_running(subscription, view) for view in paid)


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
    return bill.billing_reason == _FIRST and (is_sent or bill.status in GIVEN_UP)


def failed_time(state: ObjectState, bill: InvoiceView) -> int | None:
    """Say when a payment of an invoice first failed. One that was written off after a try failed, also where nobody told us when.

    One that is sent to be paid fails at no time: whoever pays may try as often as he likes until it is due.
    """
    if bill.due_date is not None:
        return None
    told = state.facts.get(Fact.PAYMENT_FAILED)
    if told is None and bill.attempted and bill.status is InvoiceStatus.UNCOLLECTIBLE:
        return bill.finalized_at or bill.created
    return told


def first_failure(unpaid: Iterable[tuple[ObjectState, InvoiceView]], failed: Mapping[str, int]) -> int | None:
    """Say when the first of the invoices that are not paid failed, where any did: one that was sent counts from when it was due."""
    if not failed:
        return None
    return min(time for one, bill in unpaid if (time := failed.get(one.object_id, bill.due_date)) is not None)


def due(unpaid: Iterable[InvoiceView]) -> int:
    """Say since when the first of some invoices, at least one, is to be paid, in seconds since the epoch."""
    return min(bill.due_date or bill.finalized_at or bill.created for bill in unpaid)


def _is_dropped(subscription: SubscriptionView, view: InvoiceView) -> bool:
    if view.billing_reason in _EXTRAS:
        return view.status in GIVEN_UP
    return view.status is _VOID and view.billing_reason == _CHANGE and not _began(subscription, view)


def _is_free(view: InvoiceView) -> bool:
    """Say whether an invoice is paid because it asked for nothing, for what is credited now or was before; not where a period is free."""
    return view.asks_nothing and view.status is _PAID and (view.from_balance != 0 or view.billing_reason in _AMID)


def _from_balance(invoices: Sequence[InvoiceView]) -> Mapping[str | None, int]:
    """Say how much more was taken of the customer's balance for each subscription than it credited, in minor units.

    Since money was last paid for it, as then the balance had nothing more in it. What somebody credits by hand is given.
    """
    paid: dict[str | None, int] = {}
    for view in invoices:
        if view.status is _PAID and not _is_free(view):
            paid[view.subscription_id] = max(view.created, paid.get(view.subscription_id, 0))
    sums: dict[str | None, int] = {}
    for view in invoices:
        is_given = view.from_balance < 0 and view.billing_reason == _BY_HAND
        if _is_free(view) and not is_given and view.created >= paid.get(view.subscription_id, 0):
            sums[view.subscription_id] = sums.get(view.subscription_id, 0) + view.from_balance
    return sums


def _began(subscription: SubscriptionView, invoice: InvoiceView) -> bool:
    """Say whether a period that runs, not the first, began with an invoice: what began later did so with another one."""
    return any(
        max(invoice.created - LATER_S, subscription.start + 1) <= item.period_start <= invoice.created + BEGAN_S
        for item in subscription.items
    )
