"""Which objects are to be read again from Stripe after something arrived, and how soon.

A payload takes effect at once, without a call to Stripe. A read is asked for soon only where the payloads alone cannot be
sure; the rest is verified slowly. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from billing_service.domain.merge import ObjectState, is_absorbing
from billing_service.domain.views import (
    InvoiceStatus,
    InvoiceView,
    ObjectKind,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
)
from billing_service.flows.arrival import Arrival
from billing_service.storage.rereads import Ask

TIE_S = 2  # `created` has whole seconds: two payloads this near may be in either order
MISSING_DELAY_S = 5  # what an object names and nobody told us of yet mostly comes by itself within this
VERIFY_DELAY_S = 900  # for what nothing speaks against

# What decides over access by its present state alone; the others are links, or never change.
_VERIFIED = frozenset({ObjectKind.CHECKOUT_SESSION, ObjectKind.SUBSCRIPTION})


def wanted_reads(
    arrivals: Sequence[Arrival],
    before: Mapping[str, ObjectState],
    after: Mapping[str, ObjectState],
    ownerless: Collection[str],
) -> list[Ask]:
    """Give the reads that these arrivals ask for. Our own reads ask for nothing but what they find missing."""
    asks: list[Ask] = []
    created: dict[str, list[int]] = {}
    for arrival in arrivals:
        state = arrival.state
        if state.payload is not None:
            there = before.get(state.object_id)
            seen = created.setdefault(state.object_id, [there.payload.created] if there and there.payload else [])
            if any(abs(state.payload.created - other) <= TIE_S for other in seen):
                asks.append(Ask(state.object_id, state.kind, 0))
            elif state.kind in _VERIFIED and not is_absorbing(after[state.object_id].view):
                asks.append(Ask(state.object_id, state.kind, VERIFY_DELAY_S))
            seen.append(state.payload.created)
            if state.object_id in ownerless:
                asks.append(Ask(state.object_id, state.kind, MISSING_DELAY_S))
        asks += _missing(after[state.object_id], after)
    return asks


def _missing(state: ObjectState, known: Mapping[str, ObjectState]) -> list[Ask]:
    match state.view:
        case SubscriptionView(latest_invoice_id=str() as invoice_id) if invoice_id not in known:
            return [Ask(invoice_id, ObjectKind.INVOICE, MISSING_DELAY_S)]
        case SubscriptionView(status=SubscriptionStatus.ACTIVE, latest_invoice_id=str() as invoice_id) if _is_unpaid(
            known[invoice_id]
        ):  # its payment may have been heard of by nobody, and the next failure would be put down to it
            return [Ask(invoice_id, ObjectKind.INVOICE, MISSING_DELAY_S)]
        case SessionView(subscription_id=str() as subscription_id) if subscription_id not in known:
            return [Ask(subscription_id, ObjectKind.SUBSCRIPTION, MISSING_DELAY_S)]
        case _:
            return []


def _is_unpaid(state: ObjectState) -> bool:
    return isinstance(state.view, InvoiceView) and state.view.status is InvoiceStatus.OPEN
