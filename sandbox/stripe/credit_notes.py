"""What is taken off a finalised invoice: before it is paid it asks for less, afterwards the money goes back.

https://docs.stripe.com/invoicing/integration/programmatic-credit-notes. The notes themselves are not kept here.
"""

from __future__ import annotations

from enum import StrEnum

from sandbox.stripe import balances, dunning, invoices, refunds
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.objects import Kind, Object


class Back(StrEnum):
    """How money of an invoice that is paid goes back."""

    REFUND = "refund"
    BALANCE = "balance"  # of the customer
    ELSEWHERE = "elsewhere"  # outside Stripe


def credit(account: Account, invoice: Object, subscription: Object, amount: int, back: Back) -> None:
    """Take so many minor units off an invoice. Raises ApiError for one that has not that much left, or is neither open nor paid."""
    if invoice["status"] == "open":
        if amount > invoice["amount_remaining"]:
            raise ApiError("The amount of this credit note is more than what remains to be paid.", param="amount")
        before = invoice["pre_payment_credit_notes_amount"]
        changes = {"pre_payment_credit_notes_amount": before + amount, "amount_due": invoice["amount_due"] - amount}
        invoices.ask_for(account, invoice, invoice["amount_remaining"] - amount, changes)
        if not invoice["amount_remaining"]:
            dunning.forgo(account, invoice, subscription)
        return
    before = invoice["post_payment_credit_notes_amount"]
    if invoice["status"] != "paid" or amount > invoice["amount_paid"] - before:
        raise ApiError("There is not that much of this invoice to be given back.", param="amount")
    if back is Back.REFUND:
        intent = invoices.paying_intent(account, invoice)
        refunds.create(account, {"payment_intent": intent, "amount": amount})
    elif back is Back.BALANCE:
        balances.add(account, account.find(Kind.CUSTOMER, invoice["customer"]), -amount)
    account.change(invoice, {"post_payment_credit_notes_amount": before + amount}, event="invoice.updated")
