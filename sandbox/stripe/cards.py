"""What a customer's saved means of payment does when it is charged without the customer."""

from __future__ import annotations

from enum import StrEnum

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object

DECLINED = ("card_declined", "Your card was declined.")


class CardOutcome(StrEnum):
    """What comes of a try to collect: paid, declined, or a bank debit on its way for days."""

    PAID = "paid"
    DECLINED = "declined"
    PROCESSING = "processing"
    NONE = "none"  # there is no means of payment: nothing is tried, and it counts as declined


def outcome_of(account: Account, subscription: Object) -> CardOutcome:
    """Tell what comes of charging a subscription's customer now; who left no means of payment cannot be charged."""
    if subscription.get("_no_payment_method"):
        return CardOutcome.DECLINED
    return outcome_for(account, subscription["customer"])


def outcome_for(account: Account, customer_id: str | None) -> CardOutcome:
    """Tell what comes of charging a customer now; paid, where nothing else was set."""
    customer = account.store.get(Kind.CUSTOMER, customer_id or "") or {}
    return CardOutcome(customer.get("_card") or CardOutcome.PAID)


def has_own(customer: Object) -> bool:
    """Tell whether the customer has a means of payment beside those that Checkout kept for a subscription each."""
    return customer.get("_card") is not None


def set_outcome(account: Account, customer: Object, outcome: CardOutcome) -> None:
    """Set what comes of it from now on: who left no means of payment has given one with this, or takes every one away."""
    is_gone = outcome is CardOutcome.NONE
    account.change(customer, {"_card": None if is_gone else outcome.value})
    for subscription in account.store.all(Kind.SUBSCRIPTION):
        if subscription["customer"] == customer["id"] and bool(subscription.get("_no_payment_method")) != is_gone:
            account.change(subscription, {"_no_payment_method": is_gone})
