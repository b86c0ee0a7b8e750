"""Which objects are to be read again from Stripe after something arrived, and how soon.

A payload takes effect at once, without a call to Stripe. A read is asked for soon only where the payloads alone cannot be
sure; the rest is verified slowly. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from billing_service.domain.merge import ObjectState, is_absorbing
from billing_service.domain.views import (
    DisputeView,
    InvoicePaymentView,
    InvoiceStatus,
    InvoiceView,
    ObjectKind,
    RefundView,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
    View,
)
from billing_service.flows.arrival import Arrival
from billing_service.storage.rereads import Ask

TIE_S = 2  # `created` has whole seconds: two payloads this near may be in either order
MISSING_DELAY_S = 5  # what an object names and nobody told us of yet mostly comes by itself within this
VERIFY_DELAY_S = 900  # for what nothing speaks against

# What decides over access by its present state alone; the others are links, or never change.
_VERIFIED = frozenset({ObjectKind.CHECKOUT_SESSION, ObjectKind.SUBSCRIPTION})
_RETURNED = frozenset({ObjectKind.REFUND, ObjectKind.DISPUTE})  # Stripe is asked what they belong to when they are read


def wanted_reads(
    arrivals: Sequence[Arrival],
    before: Mapping[str, ObjectState],
    after: Mapping[str, ObjectState],
    ownerless: Collection[str],
) -> list[Ask]:
    """Give the reads that these arrivals ask for. Our own reads ask for nothing but what they find missing."""
    asks: list[Ask] = []
    tied = _tied(after) if any(arrival.state.kind in _RETURNED for arrival in arrivals) else frozenset()
    created: dict[str, list[int]] = {}
    for arrival in arrivals:
        state = arrival.state
        if state.payload is not None:
            there = before.get(state.object_id)
            seen = created.setdefault(state.object_id, [there.payload.created] if there and there.payload else [])
            if arrival.is_vague or any(abs(state.payload.created - other) <= TIE_S for other in seen):
                asks.append(Ask(state.object_id, state.kind, 0))
            elif state.kind in _VERIFIED and not is_absorbing(after[state.object_id].view):
                asks.append(Ask(state.object_id, state.kind, VERIFY_DELAY_S))
            seen.append(state.payload.created)
            if state.kind in _RETURNED:
                is_followed = there is not None and there.read is not None  # once is enough: more is not to be found
                is_wanted = not is_followed and (state.object_id in ownerless or not _is_tied(state.view, tied))
            else:
                is_wanted = state.object_id in ownerless
            if is_wanted:
                asks.append(Ask(state.object_id, state.kind, MISSING_DELAY_S))
        asks += _missing(after[state.object_id], after, is_owned=state.object_id not in ownerless)
        if state.kind is ObjectKind.SUBSCRIPTION:
            asks += _passed_over(state, before.get(state.object_id), after)
    return asks


def _tied(known: Mapping[str, ObjectState]) -> frozenset[str | None]:
    """Give the payments of which it is known to which session or invoice they belong."""
    views = [state.view for state in known.values()]
    return frozenset(
        view.payment_intent_id
        for view in views
        if isinstance(view, SessionView) or (isinstance(view, InvoicePaymentView) and view.invoice_id in known)
    )


def _is_tied(view: View, tied: Collection[str | None]) -> bool:
    """Say whether a refund or dispute needs no way back: a charge may name whose it is, and not what was paid by it."""
    return isinstance(view, RefundView | DisputeView) and (
        view.payment_intent_id is None or view.payment_intent_id in tied
    )


def _passed_over(arrived: ObjectState, there: ObjectState | None, known: Mapping[str, ObjectState]) -> list[Ask]:
    """Ask for invoices that are the latest no more, of which nobody told, or only as drafts: that one was sent since nobody tells.

    Who has not paid the one before owes it still. One that a late payload names may never have been heard of; the one that was the
    latest until now was asked for when it became that.
    """
    asks, latest = [], _latest_of(known[arrived.object_id])
    for state, is_late in ((arrived, True), (there, False)):
        invoice_id = _latest_of(state)
        if invoice_id is None or invoice_id == latest:
            continue
        if _has_status(known[invoice_id], InvoiceStatus.DRAFT) if invoice_id in known else is_late:
            asks.append(Ask(invoice_id, ObjectKind.INVOICE, MISSING_DELAY_S))
    return asks


def _latest_of(state: ObjectState | None) -> str | None:
    view = state.view if state is not None and state.is_seen else None
    return view.latest_invoice_id if isinstance(view, SubscriptionView) else None


def _missing(state: ObjectState, known: Mapping[str, ObjectState], *, is_owned: bool) -> list[Ask]:
    """Ask for what an object names and nobody told us of. Of nobody's `known` has too little to say so of an invoice's subscription."""
    match state.view:
        case SubscriptionView(latest_invoice_id=str() as invoice_id) if invoice_id not in known:
            return [Ask(invoice_id, ObjectKind.INVOICE, MISSING_DELAY_S)]
        case SubscriptionView(status=SubscriptionStatus.ACTIVE, latest_invoice_id=str() as invoice_id) if _has_status(
            known[invoice_id], InvoiceStatus.OPEN
        ):  # its payment may have been heard of by nobody, and the next failure would be put down to it
            return [Ask(invoice_id, ObjectKind.INVOICE, MISSING_DELAY_S)]
        case SessionView(subscription_id=str() as subscription_id) if subscription_id not in known:
            return [Ask(subscription_id, ObjectKind.SUBSCRIPTION, MISSING_DELAY_S)]
        case InvoiceView(subscription_id=str() as subscription_id) if is_owned and subscription_id not in known:
            return [Ask(subscription_id, ObjectKind.SUBSCRIPTION, MISSING_DELAY_S)]
        case _:
            return []


def _has_status(state: ObjectState, status: InvoiceStatus) -> bool:
    return isinstance(state.view, InvoiceView) and state.view.status is status
