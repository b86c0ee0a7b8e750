"""What time does to subscriptions: periods end and are invoiced, trials end, and what was to end ends.

https://docs.stripe.com/billing/subscriptions/overview and https://docs.stripe.com/billing/subscriptions/trials
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

from sandbox.stripe import (
    dunning,
    invoices,
    payment_intents,
    pending_updates,
    subscription_schedules,
    subscriptions,
)
from sandbox.stripe.account import Account
from sandbox.stripe.cards import CardOutcome, outcome_of
from sandbox.stripe.errors import ApiError
from sandbox.stripe.intervals import period_end
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.settings import settings_of

# See https://docs.stripe.com/api/events/types#event_types-customer.subscription.trial_will_end
TRIAL_WARNING_S = 3 * 24 * 3600
_RUNNING = frozenset({"active", "trialing", "past_due", "unpaid"})


def renew(account: Account, subscription: Object, outcome: CardOutcome | None = None) -> None:
    """Begin the next period, as Stripe does when one ends.

    The invoice is a draft for `draft_s`; with an `outcome` it is collected at once. A subscription that was to end with
    its period ends instead. Raises ApiError when it has ended or never began.
    """
    if subscription["status"] not in _RUNNING:
        raise ApiError(f"A subscription that is {subscription['status']} does not renew.")
    if subscriptions.ends_before_next_period(subscription):
        subscriptions.cancel(account, subscription)
        return
    pending_updates.give_up(account, subscription)
    items = copy.deepcopy(subscription["items"])
    ends = subscriptions.first_period_end(subscription)
    phase = subscription_schedules.enter_next_phase(account, subscription, items["data"], at=ends)
    moved = [item for item in items["data"] if item["current_period_end"] == ends]
    for item in moved:
        item["current_period_start"], item["current_period_end"] = _next_period(subscription, item)
    invoice = invoices.draft(account, subscription, "subscription_cycle", subscriptions.lines_of(moved))
    status = "active" if subscription["status"] == "trialing" else subscription["status"]
    changes = {"items": items, "latest_invoice": invoice["id"], "status": status, **phase}
    account.change(subscription, changes, event="customer.subscription.updated")
    bill(account, invoice, subscription, outcome)


def finalize(account: Account, invoice: Object, subscription: Object, outcome: CardOutcome | None = None) -> None:
    """Open a draft whose hour is over and collect it, as `pause_collection` lets."""
    invoices.finalize(account, invoice, method=payment_intents.CARD)
    paused = subscription["pause_collection"]
    if paused and paused["behavior"] == "void":
        invoices.void(account, invoice)
    elif paused and paused["behavior"] == "mark_uncollectible":
        invoices.mark_uncollectible(account, invoice)
    elif not invoices.is_sent(invoice) or not invoice["amount_due"]:
        dunning.collect(account, invoice, subscription, outcome or outcome_of(account, subscription))


def end_trial(account: Account, subscription: Object) -> None:
    """End a trial: renew, or without a means of payment do what the trial's settings say."""
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    is_missing = subscription.get("_no_payment_method") and subscription["collection_method"] != invoices.SENT
    if is_missing and behavior == "pause" and not subscription["cancel_at_period_end"]:
        subscriptions.pause(account, subscription, subscriptions.Pause.TRIAL)
    elif is_missing and behavior == "cancel":
        subscriptions.cancel(account, subscription)
    else:
        renew(account, subscription)


def resume(account: Account, subscription: Object) -> None:
    """Begin a new period of a paused subscription; it runs again once its invoice is paid. Raises ApiError."""
    if subscription["status"] != "paused":
        raise ApiError(f"This subscription is {subscription['status']}; only a paused one can be resumed.")
    _begin_now(account, subscription, {})


def restart(account: Account, subscription: Object) -> None:
    """Begin new periods now, as `billing_cycle_anchor=now` and `trial_end=now` do; paid or not, they have begun.

    Nothing is credited here for what was left of the periods before. Raises ApiError for one that does not run.
    """
    if subscription["status"] not in {"active", "trialing", "past_due"}:
        raise ApiError(f"The stand-in for Stripe begins no period of a subscription that is {subscription['status']}.")
    pending_updates.give_up(account, subscription)
    ended = {"status": "active", "trial_end": account.time()} if subscription["status"] == "trialing" else {}
    _begin_now(account, subscription, ended)


def _begin_now(account: Account, subscription: Object, changes: Object) -> None:
    now = account.time()
    items = copy.deepcopy(subscription["items"])
    for item in items["data"]:
        recurring = item["price"]["recurring"]
        end = period_end(now, now, recurring["interval"], recurring["interval_count"])
        item |= {"current_period_start": now, "current_period_end": end}
    invoice = invoices.draft(account, subscription, "subscription_update", subscriptions.lines_of(items["data"]))
    changes = {"billing_cycle_anchor": now, "items": items, "latest_invoice": invoice["id"], **changes}
    account.change(subscription, changes, event="customer.subscription.updated")
    invoices.issue(account, invoice, method=payment_intents.CARD)
    if not invoices.is_sent(invoice) or not invoice["amount_due"]:
        dunning.collect(account, invoice, subscription, outcome_of(account, subscription))
    elif subscription["status"] == "paused":
        subscriptions.unpause(account, subscription)


def due_at(subscription: Object) -> int | None:
    """Tell when time next does something to a subscription, in seconds since the epoch; None when it never does."""
    return min(_dues(subscription), default=None)


def do_what_is_due(account: Account, subscription: Object) -> None:
    """Do the one thing that is due."""
    now, status = account.time(), subscription["status"]
    resumes_at = (subscription["pause_collection"] or {}).get("resumes_at")
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= now:
        subscriptions.cancel(account, subscription)
    elif _update_expires_at(subscription) <= now:
        pending_updates.give_up(account, subscription)
    elif status == "incomplete":
        dunning.expire_first_payment(account, subscription, account.find(Kind.INVOICE, subscription["latest_invoice"]))
    elif resumes_at is not None and resumes_at <= now:
        account.change(subscription, {"pause_collection": None}, event="customer.subscription.updated")
    elif status == "trialing" and not subscription.get("_trial_announced") and _warning_at(subscription) <= now:
        account.change(subscription, {"_trial_announced": True})
        account.publish("customer.subscription.trial_will_end", subscription)
    elif status == "trialing":
        end_trial(account, subscription)
    else:
        renew(account, subscription)


def _dues(subscription: Object) -> Iterable[int]:
    status = subscription["status"]
    if status in subscriptions.ENDED:
        return
    if subscription["cancel_at"] is not None:
        yield subscription["cancel_at"]
    if subscription["pending_update"]:
        yield int(subscription["pending_update"]["expires_at"])
    if status == "incomplete":
        yield subscription["created"] + dunning.INCOMPLETE_S
    paused = subscription["pause_collection"]
    if paused and paused["resumes_at"] is not None:
        yield paused["resumes_at"]
    if status == "trialing" and not subscription.get("_trial_announced"):
        yield _warning_at(subscription)
    if status in _RUNNING:
        yield subscriptions.first_period_end(subscription)


def _update_expires_at(subscription: Object) -> float:
    return subscription["pending_update"]["expires_at"] if subscription["pending_update"] else math.inf


def _warning_at(subscription: Object) -> int:
    return max(int(subscription["trial_end"]) - TRIAL_WARNING_S, int(subscription["trial_start"]))


def bill(account: Account, invoice: Object, subscription: Object, outcome: CardOutcome | None = None) -> None:
    """Tell of a draft, and finalise it in an hour or at once; not where the subscription keeps it."""
    draft_s = 0 if outcome else settings_of(account).draft_s
    paused = subscription["pause_collection"]
    held = subscription["status"] == "unpaid" or (paused and paused["behavior"] == "keep_as_draft")
    invoices.announce(account, invoice, finalizes_in_s=None if held else draft_s)
    if not held and not draft_s:
        finalize(account, invoice, subscription, outcome)


def _next_period(subscription: Object, item: Object) -> tuple[int, int]:
    recurring = item["price"]["recurring"]
    begin: int = item["current_period_end"]
    anchor = subscription["billing_cycle_anchor"]
    return begin, period_end(anchor, begin, recurring["interval"], recurring["interval_count"])
