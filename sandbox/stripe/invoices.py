"""Invoices of subscriptions, and the invoice payments that tie them to payment intents.

Shapes since 2025-03-31.basil: the subscription is named in `parent.subscription_details`, the payment intent only in the
invoice's payments. https://docs.stripe.com/billing/invoices/subscription
"""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.stripe import balances, discounts, payment_intents
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.identifiers import new_id, random_text
from sandbox.stripe.invoice_shape import SUBTOTALS, TOTALS, Line, blank, shaped_line
from sandbox.stripe.objects import Kind, Object, list_of

DEBIT_DAYS_S = 5 * 24 * 3600  # how long a bank debit is on its way
SENT = "send_invoice"  # the customer is asked to pay, and not charged
_DAY_S = 24 * 3600


def is_sent(invoice: Object) -> bool:
    """Tell whether an invoice is sent to the customer to pay."""
    return bool(invoice["collection_method"] == SENT)


def draft(account: Account, subscription: Object, reason: str, lines: Iterable[Line]) -> Object:
    """Make a draft for a subscription; `reason` is Stripe's billing_reason. `announce` or `issue` tells of it."""
    customer = account.find(Kind.CUSTOMER, subscription["customer"])
    invoice = compose(account, subscription, reason, lines)
    account.change(customer, {"next_invoice_sequence": customer["next_invoice_sequence"] + 1})
    discounts.use_up(account, subscription)
    return account.add(invoice)


def compose(account: Account, subscription: Object, reason: str, lines: Iterable[Line]) -> Object:
    """Write a draft that is not kept."""
    customer = account.find(Kind.CUSTOMER, subscription["customer"])
    invoice = blank(account.time(), customer, subscription, reason)
    data = [shaped_line(line, invoice["id"], subscription) for line in lines]
    invoice["lines"] = list_of(data, f"/v1/invoices/{invoice['id']}/lines")
    subtotal = sum(line["amount"] for line in data)
    coupon = discounts.coupon_on(account, subscription)
    off = discounts.share_of(coupon, subtotal) if coupon else 0
    given = [{"amount": off, "discount": discount_id} for discount_id in subscription["discounts"]] if coupon else []
    discounted = {"discounts": [one["discount"] for one in given], "total_discount_amounts": given}
    totals = dict.fromkeys(SUBTOTALS, subtotal) | dict.fromkeys(TOTALS, subtotal - off)
    return invoice | discounted | totals | balances.applied(customer["balance"], subtotal - off)


def announce(account: Account, invoice: Object, *, finalizes_in_s: int | None = None) -> None:
    """Tell of a draft that finalises by itself after so many seconds; with None it waits for somebody."""
    at = None if finalizes_in_s is None else account.time() + finalizes_in_s
    account.change(invoice, {"automatically_finalizes_at": at, "auto_advance": at is not None})
    account.publish("invoice.created", invoice)


def issue(account: Account, invoice: Object, *, method: str) -> None:
    """Announce a draft and finalise it at once."""
    account.publish("invoice.created", invoice)
    finalize(account, invoice, method=method)


def finalize(account: Account, invoice: Object, *, method: str) -> None:
    """Open a draft; one that asks for money gets a payment intent by that method. Raises ApiError when it is none."""
    if invoice["status"] != "draft":
        raise ApiError(f"This invoice is {invoice['status']}; only a draft can be finalized.")
    now = account.time()
    changes = {
        "status": "open",
        "automatically_finalizes_at": None,
        "effective_at": now,
        "status_transitions": _reached(invoice, "finalized_at", now),
    }
    if is_sent(invoice):
        changes["due_date"] = now + invoice["_days_until_due"] * _DAY_S
    balances.take(account, invoice)
    account.change(invoice, changes, event="invoice.finalized")
    if invoice["amount_due"]:
        _request_payment(account, invoice, method)
        if is_sent(invoice):
            account.publish("invoice.sent", invoice)


def pay(account: Account, invoice: Object) -> None:
    """Have the invoice paid."""
    now = account.time()
    if invoice["amount_remaining"]:
        payment = _payment(account, invoice)
        payment_intents.succeed(account, _intent(account, payment))
        transitions = {**payment["status_transitions"], "paid_at": now}
        changes: Object = {
            "status": "paid",
            "amount_paid": invoice["amount_remaining"],
            "status_transitions": transitions,
        }
        account.change(payment, changes, event="invoice_payment.paid")
    changes = {
        "status": "paid",
        "amount_paid": invoice["amount_due"],
        "amount_remaining": 0,
        "attempted": True,
        "attempt_count": invoice["attempt_count"] + bool(invoice["amount_remaining"]),
        "next_payment_attempt": None,
        "status_transitions": _reached(invoice, "paid_at", now),
        "_settles_at": None,
    }
    account.change(invoice, changes, event="invoice.paid")
    account.publish("invoice.payment_succeeded", invoice)


def pay_part(account: Account, invoice: Object, amount: int) -> None:
    """Have so many minor units of an invoice paid by themselves. Raises ApiError where that is not a part of what remains."""
    _require_payable(invoice)
    if amount >= invoice["amount_remaining"]:
        raise ApiError("That is no part of what remains to be paid.", param="amount")
    intent = payment_intents.create(
        account,
        amount=amount,
        currency=invoice["currency"],
        customer=invoice["customer"],
        method=payment_intents.CARD,
    )
    payment_intents.succeed(account, intent)
    account.change(intent, {"_invoice": invoice["id"]})
    _add_paid(account, invoice, amount, {"payment_intent": intent["id"], "type": "payment_intent"})
    ask_for(account, invoice, invoice["amount_remaining"] - amount, {"amount_paid": invoice["amount_paid"] + amount})


def pay_elsewhere(account: Account, invoice: Object) -> None:
    """Have what remains of an invoice paid outside Stripe. Raises ApiError for one that cannot be paid.

    https://docs.stripe.com/api/invoices/pay#pay_invoice-paid_out_of_band
    """
    _require_payable(invoice)
    if invoice["amount_remaining"]:
        record = {"payment_record": f"pr_{random_text(14)}", "type": "payment_record"}
        _add_paid(account, invoice, invoice["amount_remaining"], record)
        ask_for(account, invoice, 0, {})
    pay(account, invoice)


def ask_for(account: Account, invoice: Object, remaining: int, changes: Object) -> None:
    """Have only so many minor units of an open invoice remain to be paid; with none of them its payment is given up."""
    payment = _payment(account, invoice)
    if remaining:
        account.change(payment, {"amount_requested": remaining})
        account.change(_intent(account, payment), {"amount": remaining})
    else:
        _cancel(account, payment)
    account.change(invoice, {"amount_remaining": remaining, **changes}, event="invoice.updated")


def paying_intent(account: Account, invoice: Object) -> str:
    """Name a payment intent by which an invoice was paid. Raises ApiError where none was."""
    for payment in account.store.newest_first(Kind.INVOICE_PAYMENT):
        if (payment["invoice"], payment["status"]) == (invoice["id"], "paid") and "payment_intent" in payment[
            "payment"
        ]:
            return str(payment["payment"]["payment_intent"])
    raise ApiError("This invoice was not paid at Stripe.")


def process(account: Account, invoice: Object) -> None:
    """Put the invoice's payment on its way; the invoice stays open until it settles."""
    payment_intents.process(account, _intent(account, _payment(account, invoice)))
    changes = {"attempted": True, "attempt_count": invoice["attempt_count"] + 1, "next_payment_attempt": None}
    account.change(invoice, {**changes, "_settles_at": account.time() + DEBIT_DAYS_S})


def require_action(account: Account, invoice: Object) -> None:
    """Have the bank ask for the payer's consent before it pays (3-D Secure)."""
    payment_intents.require_action(account, _intent(account, _payment(account, invoice)))
    changes = {
        "attempted": True,
        "attempt_count": invoice["attempt_count"] + 1,
        "_failed_at": _first_failure(account, invoice),
    }
    account.change(invoice, changes, event="invoice.payment_action_required")


def fail(account: Account, invoice: Object, *, code: str, message: str, retry_at: int | None = None) -> None:
    """Have a try to collect the invoice fail; it is tried again at `retry_at`, in seconds since the epoch, or never."""
    payment_intents.fail(account, _intent(account, _payment(account, invoice)), code=code, message=message)
    changes = {
        "attempted": True,
        # A debit that comes back is the attempt that began when it left.
        "attempt_count": invoice["attempt_count"] + (invoice.get("_settles_at") is None),
        "next_payment_attempt": retry_at,
        "_failed_at": _first_failure(account, invoice),
        "_settles_at": None,
    }
    account.change(invoice, changes, event="invoice.payment_failed")


def void(account: Account, invoice: Object) -> None:
    """Take an open invoice back."""
    _require_open(invoice)
    if invoice["amount_due"]:
        _cancel(account, _payment(account, invoice))
    balances.give_back(account, invoice)
    changes: Object = {"status": "void", "next_payment_attempt": None, "amount_remaining": 0, "_settles_at": None}
    changes["status_transitions"] = _reached(invoice, "voided_at", account.time())
    account.change(invoice, changes, event="invoice.voided")


def mark_uncollectible(account: Account, invoice: Object) -> None:
    """Write an open invoice off."""
    _require_open(invoice)
    transitions = _reached(invoice, "marked_uncollectible_at", account.time())
    changes = {
        "status": "uncollectible",
        "next_payment_attempt": None,
        "_settles_at": None,
        "status_transitions": transitions,
    }
    account.change(invoice, changes, event="invoice.marked_uncollectible")


def _first_failure(account: Account, invoice: Object) -> int:
    """Note what only events say: when the first try to collect the invoice failed."""
    return int(invoice.get("_failed_at") or account.time())


def _require_open(invoice: Object) -> None:
    if invoice["status"] != "open":
        raise ApiError(f"This invoice is {invoice['status']}; only an open one can be changed so.")


def _require_payable(invoice: Object) -> None:
    if invoice["status"] not in {"open", "uncollectible"}:
        raise ApiError(f"This invoice is {invoice['status']}; it cannot be paid.")
    if invoice.get("_settles_at") is not None:
        raise ApiError("This invoice has a payment on its way; it settles first.")


def _cancel(account: Account, payment: Object) -> None:
    payment_intents.cancel(account, _intent(account, payment))
    transitions = {**payment["status_transitions"], "canceled_at": account.time()}
    account.change(payment, {"status": "canceled", "status_transitions": transitions})


def _add_paid(account: Account, invoice: Object, amount: int, by: Object) -> None:
    """Keep a payment of an invoice beside its own one."""
    shape = _shaped_payment(account, invoice, amount, by)
    transitions = {**shape["status_transitions"], "paid_at": account.time()}
    paid = {"amount_paid": amount, "is_default": False, "status": "paid", "status_transitions": transitions}
    account.add(shape | paid, event="invoice_payment.paid")


def _request_payment(account: Account, invoice: Object, method: str) -> None:
    intent = payment_intents.create(
        account,
        amount=invoice["amount_due"],
        currency=invoice["currency"],
        customer=invoice["customer"],
        method=method,
        description="Subscription creation" if invoice["billing_reason"] == "subscription_create" else None,
    )
    by = {"payment_intent": intent["id"], "type": "payment_intent"}
    payment = account.add(_shaped_payment(account, invoice, invoice["amount_due"], by))
    account.change(invoice, {"_payment": payment["id"]})
    account.change(intent, {"_invoice": invoice["id"]})


def _shaped_payment(account: Account, invoice: Object, amount: int, by: Object) -> Object:
    return {
        "id": new_id(Kind.INVOICE_PAYMENT),
        "object": Kind.INVOICE_PAYMENT.value,
        "amount_paid": None,
        "amount_requested": amount,
        "created": account.time(),
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": by,
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def _payment(account: Account, invoice: Object) -> Object:
    """Find the invoice's own payment, of what is not paid otherwise; every invoice here that asks for money has one."""
    return account.find(Kind.INVOICE_PAYMENT, invoice["_payment"])


def _intent(account: Account, payment: Object) -> Object:
    return account.find(Kind.PAYMENT_INTENT, payment["payment"]["payment_intent"])


def _reached(invoice: Object, name: str, now: int) -> Object:
    return {**invoice["status_transitions"], name: now}
