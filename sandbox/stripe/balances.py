"""The balance of a customer: below zero it is the customer's, and pays for what is finalised next.

https://docs.stripe.com/billing/customer/balance. Nobody owes by it here: nothing is too little to be charged.
"""

from __future__ import annotations

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object


def applied(balance: int, total: int) -> Object:
    """Tell what an invoice of `total` minor units asks for beside a balance; what it credits itself is not asked for."""
    due = max(0, total + balance) if total > 0 else 0
    return {"amount_due": due, "amount_remaining": due, "starting_balance": balance}


def take(account: Account, invoice: Object) -> None:
    """Have the balance pay for an invoice that is being finalised, as far as it goes, or grow by what the invoice credits."""
    customer = account.find(Kind.CUSTOMER, invoice["customer"])
    balance = customer["balance"]
    asked = applied(balance, invoice["total"])
    after = balance + invoice["total"] - asked["amount_due"]
    account.change(invoice, asked | {"ending_balance": after})
    add(account, customer, after - balance)


def give_back(account: Account, invoice: Object) -> None:
    """Have the customer keep what an invoice took, which is taken back."""
    customer = account.find(Kind.CUSTOMER, invoice["customer"])
    add(account, customer, min(0, invoice["starting_balance"] - invoice["ending_balance"]))


def add(account: Account, customer: Object, amount: int) -> None:
    """Change a balance by so many minor units; below zero they are given to the customer."""
    account.change(customer, {"balance": customer["balance"] + amount}, event="customer.updated")
