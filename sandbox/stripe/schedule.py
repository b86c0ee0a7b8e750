"""Time's own work, in the order in which it falls due: sessions expire, periods and trials end, invoices are collected.

Whatever is due is looked up once; doing one thing may make the next one due, which takes its place in the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sandbox.stripe import billing_cycle, checkout_sessions, dunning, invoices, purchase, subscriptions
from sandbox.stripe.account import Account
from sandbox.stripe.cards import CardOutcome, outcome_for, outcome_of
from sandbox.stripe.clock import Clock
from sandbox.stripe.objects import Kind, Object

STEPS_LIMIT = 200_000  # in one go; more would be a fault of ours that runs in a circle


@dataclass(frozen=True)
class _Course:
    """How time works on one kind of object: when next (seconds since the epoch), and what happens then."""

    due_at: Callable[[Account, Object], int | None]
    do: Callable[[Account, Object], None]


def _session_due(_: Account, session: Object) -> int | None:
    if session["status"] == "open":
        return int(session["expires_at"])
    return int(session["_settles_at"]) if session.get("_settles") else None


def _do_session(account: Account, session: Object) -> None:
    if session["status"] == "open":
        checkout_sessions.expire(account, session)
        return
    declined = outcome_for(account, session["customer"]) is CardOutcome.DECLINED
    purchase.settle(account, session, purchase.Settlement.FAILED if declined else purchase.Settlement.SUCCEEDED)


def _subscription_due(_: Account, subscription: Object) -> int | None:
    return billing_cycle.due_at(subscription)


def _invoice_due(account: Account, invoice: Object) -> int | None:
    if invoice["status"] == "open" and invoice.get("_settles_at") is not None:
        # One that was paid in a checkout session settles with that.
        return None if invoice.get("_in_checkout") else int(invoice["_settles_at"])
    if subscription_of(account, invoice)["status"] in subscriptions.ENDED:
        return None  # nothing is collected for a subscription that is over
    if invoice["status"] == "open" and invoices.is_sent(invoice):
        return dunning.sent_due_at(invoice)
    name = {"draft": "automatically_finalizes_at", "open": "next_payment_attempt"}.get(invoice["status"])
    return invoice[name] if name else None


def _do_invoice(account: Account, invoice: Object) -> None:
    subscription = subscription_of(account, invoice)
    outcome = outcome_of(account, subscription)
    if invoice["status"] == "draft":
        billing_cycle.finalize(account, invoice, subscription)
    elif invoice.get("_settles_at") is not None:
        dunning.settle(account, invoice, subscription, succeeded=outcome is not CardOutcome.DECLINED)
    elif invoices.is_sent(invoice):
        dunning.let_lapse(account, invoice, subscription)
    else:
        dunning.collect(account, invoice, subscription, outcome)


_COURSES = {
    Kind.CHECKOUT_SESSION: _Course(_session_due, _do_session),
    Kind.SUBSCRIPTION: _Course(_subscription_due, billing_cycle.do_what_is_due),
    Kind.INVOICE: _Course(_invoice_due, _do_invoice),
}


def subscription_of(account: Account, invoice: Object) -> Object:
    """Find the subscription that an invoice is for."""
    return account.find(Kind.SUBSCRIPTION, invoice["parent"]["subscription_details"]["subscription"])


def catch_up(account: Account, clock: Clock, until: float | None = None) -> int:
    """Do everything that is due by `until` (the present when None), setting the clock to each moment on the way.

    Returns how many things were done. Raises RuntimeError when there is no end to them.
    """
    last = clock() if until is None else until
    waiting = [entry for kind in _COURSES for obj in account.store.all(kind) for entry in _entry(account, kind, obj)]
    waiting = [entry for entry in waiting if entry[0] <= last]
    heapq.heapify(waiting)
    done = 0
    while waiting and waiting[0][0] <= last:
        moment, kind, object_id = heapq.heappop(waiting)
        obj = account.find(kind, object_id)
        due_at = _COURSES[kind].due_at(account, obj)
        if due_at is not None and due_at <= moment:
            if done >= STEPS_LIMIT:
                raise RuntimeError(f"more than {STEPS_LIMIT} things were due at once")
            clock.reach(moment)
            _COURSES[kind].do(account, obj)
            done += 1
            due_at = _COURSES[kind].due_at(account, obj)
        if due_at is not None:
            heapq.heappush(waiting, (due_at, kind, object_id))
        for entry in _consequences(account, kind, obj):
            heapq.heappush(waiting, entry)
    if until is not None:
        clock.reach(until)
    return done


def _entry(account: Account, kind: Kind, obj: Object) -> Iterable[tuple[int, Kind, str]]:
    due_at = _COURSES[kind].due_at(account, obj)
    if due_at is not None:
        yield due_at, kind, obj["id"]


def _consequences(account: Account, kind: Kind, obj: Object) -> Iterable[tuple[int, Kind, str]]:
    """Give what working on one object may have made due of another: a renewal its invoice, a payment its subscription."""
    if kind is Kind.SUBSCRIPTION and obj["latest_invoice"]:
        yield from _entry(account, Kind.INVOICE, account.find(Kind.INVOICE, obj["latest_invoice"]))
    elif kind is Kind.INVOICE:
        yield from _entry(account, Kind.SUBSCRIPTION, subscription_of(account, obj))
