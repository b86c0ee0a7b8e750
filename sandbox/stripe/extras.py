"""What is asked for, or credited, by hand on a subscription beside its periods.

https://docs.stripe.com/api/invoices/create#create_invoice-subscription: such an invoice is the subscription's latest.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.stripe import cards, dunning, invoices, payment_intents
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.invoice_shape import Line
from sandbox.stripe.objects import Object


@dataclass(frozen=True)
class _Item(Line):
    """A line of any amount."""

    asked: int = 0

    @property
    def amount(self) -> int:
        """The line's sum in minor units."""
        return self.asked


def ask(account: Account, subscription: Object, amount: int) -> None:
    """Invoice so many minor units, below zero as a credit, and try to collect them. Raises ApiError where nothing runs."""
    if subscription["status"] not in {"active", "trialing", "past_due"}:
        raise ApiError(f"A subscription that is {subscription['status']} is invoiced for nothing.")
    now, (item, *_) = account.time(), subscription["items"]["data"]
    invoice = invoices.draft(account, subscription, "manual", [_Item(item["price"], 1, now, now, asked=amount)])
    account.change(subscription, {"latest_invoice": invoice["id"]}, event="customer.subscription.updated")
    invoices.issue(account, invoice, method=payment_intents.CARD)
    if not invoices.is_sent(invoice) or not invoice["amount_due"]:
        dunning.collect(account, invoice, subscription, cards.outcome_of(account, subscription))
