"""Collecting invoices: what a payment, a refusal or a write-off does to the subscription, and when it is tried again.

https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses
https://docs.stripe.com/billing/revenue-recovery/smart-retries
"""

from __future__ import annotations

from sandbox.stripe import cards, invoices, pending_updates, subscriptions
from sandbox.stripe.account import Account
from sandbox.stripe.cards import CardOutcome
from sandbox.stripe.errors import ApiError
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.settings import AfterDunning, settings_of

_DAY_S = 24 * 3600
RETRY_GAPS_S = (3 * _DAY_S, 5 * _DAY_S, 7 * _DAY_S)  # from each failed try to the next; then it is over
# From when an invoice that was sent was due until it is over; the least that the dashboard offers.
AFTER_DUE_S = 30 * _DAY_S
INCOMPLETE_S = 23 * 3600  # how long a first payment may take before the subscription expires

_RETURNED = ("payment_intent_payment_attempt_failed", "The bank returned the debit: insufficient funds.")


def collect(account: Account, invoice: Object, subscription: Object, outcome: CardOutcome) -> None:
    """Try to collect an open invoice, and let the subscription follow. Raises ApiError when it cannot be collected."""
    if invoice["status"] != "open" and not (invoice["status"] == "uncollectible" and outcome is CardOutcome.PAID):
        raise ApiError(f"This invoice is {invoice['status']}; only an open one can be collected.")
    if invoice.get("_settles_at") is not None:
        raise ApiError("This invoice has a payment on its way; it settles first.")
    if outcome is CardOutcome.PAID or not invoice["amount_due"]:
        invoices.pay(account, invoice)
        _recover(account, invoice, subscription)
    elif outcome is CardOutcome.PROCESSING:
        invoices.process(account, invoice)
    else:
        _fail(account, invoice, subscription, cards.DECLINED)


def forgo(account: Account, invoice: Object, subscription: Object) -> None:
    """Have an open invoice paid of which nothing remains to be asked for."""
    invoices.pay(account, invoice)
    _recover(account, invoice, subscription)


def take_payment_elsewhere(account: Account, invoice: Object, subscription: Object) -> None:
    """Have an invoice paid outside Stripe. Raises ApiError for one that cannot be."""
    invoices.pay_elsewhere(account, invoice)
    _recover(account, invoice, subscription)


def settle(account: Account, invoice: Object, subscription: Object, *, succeeded: bool) -> None:
    """End a bank debit that is on its way. Raises ApiError when none is."""
    if invoice["status"] != "open" or invoice.get("_settles_at") is None:
        raise ApiError("This invoice has no payment on its way.")
    if succeeded:
        invoices.pay(account, invoice)
        _recover(account, invoice, subscription)
    elif invoice["billing_reason"] == "subscription_create" and not invoices.is_sent(invoice):
        # The subscription stays active although its first payment never came; the void invoice alone tells.
        invoices.fail(account, invoice, code=_RETURNED[0], message=_RETURNED[1])
        invoices.void(account, invoice)
    else:
        _fail(account, invoice, subscription, _RETURNED)


def void(account: Account, invoice: Object, subscription: Object) -> None:
    """Take an open invoice back. A first one that nobody paid takes its subscription with it. Raises ApiError."""
    if invoice["amount_paid"]:
        raise ApiError("A part of this invoice is paid; it cannot be voided.")
    invoices.void(account, invoice)
    if pending_updates.waits_for(subscription, invoice):
        pending_updates.give_up(account, subscription)
    elif subscription["status"] == "incomplete" and _is_latest(account, invoice, subscription):
        subscriptions.expire_incomplete(account, subscription)
    else:
        _forgive(account, invoice, subscription)


def write_off(account: Account, invoice: Object, subscription: Object) -> None:
    """Give an open invoice up. Raises ApiError when it is not open."""
    invoices.mark_uncollectible(account, invoice)
    if pending_updates.waits_for(subscription, invoice):
        pending_updates.give_up(account, subscription)
        return
    _forgive(account, invoice, subscription)


def sent_due_at(invoice: Object) -> int | None:
    """Tell when time next does something to an open invoice that was sent: it falls due, and then it is given up."""
    if invoice.get("_given_up"):
        return None
    return int(invoice["due_date"]) + (AFTER_DUE_S if invoice.get("_lapsed") else 0)


def let_lapse(account: Account, invoice: Object, subscription: Object) -> None:
    """Have an invoice that was sent fall due, or be over where it has long been.

    https://docs.stripe.com/api/subscriptions/object: past due when it is not paid by its due date.
    """
    if not invoice.get("_lapsed"):
        account.change(invoice, {"_lapsed": True})
        account.publish("invoice.overdue", invoice)
        if subscription["status"] == "active" and _is_latest(account, invoice, subscription):
            account.change(subscription, {"status": "past_due"}, event="customer.subscription.updated")
        return
    account.change(invoice, {"_given_up": True})
    if subscription["status"] == "past_due" and _is_latest(account, invoice, subscription):
        _end_dunning(account, subscription)


def expire_first_payment(account: Account, subscription: Object, invoice: Object) -> None:
    """End a subscription whose first payment did not come in time."""
    subscriptions.expire_incomplete(account, subscription)
    if invoice["status"] == "open":
        invoices.void(account, invoice)


def _fail(account: Account, invoice: Object, subscription: Object, why: tuple[str, str]) -> None:
    if pending_updates.waits_for(subscription, invoice) or invoices.is_sent(invoice):
        # The subscription has not changed, and is not behind with anything; or who pays tried, and has time until it is due.
        invoices.fail(account, invoice, code=why[0], message=why[1])
        return
    tried = max(0, invoice["attempt_count"] - (invoice.get("_settles_at") is not None))
    first = subscription["status"] == "incomplete"  # its 23 hours are all the dunning that there is
    gap_s = RETRY_GAPS_S[tried] if tried < len(RETRY_GAPS_S) and not first else None
    retry_at = None if gap_s is None or subscription["status"] in subscriptions.ENDED else account.time() + gap_s
    invoices.fail(account, invoice, code=why[0], message=why[1], retry_at=retry_at)
    if not _is_latest(account, invoice, subscription):
        return
    if subscription["status"] == "active":
        account.change(subscription, {"status": "past_due"}, event="customer.subscription.updated")
    if retry_at is None and subscription["status"] == "past_due":
        _end_dunning(account, subscription)


def _end_dunning(account: Account, subscription: Object) -> None:
    match settings_of(account).after_dunning:
        case AfterDunning.CANCELED:
            subscriptions.cancel(account, subscription, reason="payment_failed")
        case AfterDunning.UNPAID:
            account.change(subscription, {"status": "unpaid"}, event="customer.subscription.updated")
        case AfterDunning.PAUSED:
            subscriptions.pause(account, subscription, subscriptions.Pause.UNPAID)
        case AfterDunning.PAST_DUE:
            pass


def _recover(account: Account, invoice: Object, subscription: Object) -> None:
    if pending_updates.waits_for(subscription, invoice):
        pending_updates.apply(account, subscription)
        return
    if not _is_latest(account, invoice, subscription):
        return
    if subscription["status"] == "paused":
        subscriptions.unpause(account, subscription)
    else:
        subscriptions.activate(account, subscription)


def _forgive(account: Account, invoice: Object, subscription: Object) -> None:
    """As at Stripe, what is not owed any more does not hold the subscription back."""
    if subscription["status"] in {"past_due", "paused"}:
        _recover(account, invoice, subscription)


def _is_latest(account: Account, invoice: Object, subscription: Object) -> bool:
    """Tell whether it is the latest invoice of the subscription that was ever asked for and not taken back: that one decides.

    https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses: the latest finalized invoice.
    """
    if subscription["latest_invoice"] == invoice["id"]:
        return True
    asked = [
        one["id"]
        for one in account.store.all(Kind.INVOICE)
        if one["parent"]["subscription_details"]["subscription"] == subscription["id"]
        and one["status"] not in {"draft", "void"}
    ]
    return asked[-1:] == [invoice["id"]]
