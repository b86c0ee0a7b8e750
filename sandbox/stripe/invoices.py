"""Invoices of subscriptions, and the invoice payments that tie them to payment intents.

Shapes since 2025-03-31.basil: the subscription is named in `parent.subscription_details`, the payment intent only in the
invoice's payments. https://docs.stripe.com/billing/invoices/subscription
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.stripe import payment_intents
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, list_of

RETRY_AFTER_S = 3 * 24 * 3600  # a failed renewal is tried again; Stripe's smart retries lie days apart

# Fields that an invoice has at Stripe and that are null in a new one here.
_EMPTY = (
    "account_name",
    "account_tax_ids",
    "application",
    "automatically_finalizes_at",
    "custom_fields",
    "customer_account",
    "customer_address",
    "customer_phone",
    "customer_shipping",
    "default_payment_method",
    "default_source",
    "description",
    "due_date",
    "effective_at",
    "ending_balance",
    "footer",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "on_behalf_of",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "test_clock",
    "webhooks_delivered_at",
)

_ZERO = (
    "amount_overpaid",
    "amount_paid",
    "amount_shipping",
    "attempt_count",
    "post_payment_credit_notes_amount",
    "pre_payment_credit_notes_amount",
    "starting_balance",
)
# Fields that hold the invoice's sum until something is paid; there are neither taxes nor discounts here.
_TOTALS = ("amount_due", "amount_remaining", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax")
_TRANSITIONS = ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")


@dataclass(frozen=True)
class Line:
    """What an invoice asks for: a price, so many of it, for a period (seconds since the epoch)."""

    price: Object
    quantity: int
    start: int
    end: int
    subscription_item: str | None = None
    free: bool = False  # a trial's line costs nothing
    proration: bool = False

    @property
    def amount(self) -> int:
        """The line's sum in minor units."""
        return 0 if self.free else int(self.price["unit_amount"]) * self.quantity


def draft(account: Account, subscription: Object, reason: str, lines: Iterable[Line]) -> Object:
    """Make a draft for a subscription; `reason` is Stripe's billing_reason. `issue` announces it."""
    invoice = compose(account, subscription, reason, lines)
    customer = account.find(Kind.CUSTOMER, subscription["customer"])
    account.change(customer, {"next_invoice_sequence": customer["next_invoice_sequence"] + 1})
    return account.add(invoice)


def compose(account: Account, subscription: Object, reason: str, lines: Iterable[Line]) -> Object:
    """Write a draft that is not kept."""
    customer = account.find(Kind.CUSTOMER, subscription["customer"])
    invoice = _blank(account.time(), customer, subscription, reason)
    data = [_line(line, invoice["id"], subscription) for line in lines]
    invoice["lines"] = list_of(data, f"/v1/invoices/{invoice['id']}/lines")
    total = sum(line["amount"] for line in data)
    # What is credited beyond what is charged is not asked for.
    return invoice | dict.fromkeys(_TOTALS, total) | dict.fromkeys(("amount_due", "amount_remaining"), max(0, total))


def issue(account: Account, invoice: Object, *, method: str) -> None:
    """Announce and finalise a draft; one that asks for money gets a payment intent by that method."""
    account.publish("invoice.created", invoice)
    now = account.time()
    changes = {"status": "open", "effective_at": now, "status_transitions": _reached(invoice, "finalized_at", now)}
    account.change(invoice, changes, event="invoice.finalized")
    if invoice["amount_due"]:
        _request_payment(account, invoice, method)


def pay(account: Account, invoice: Object) -> None:
    """Have the invoice paid."""
    now = account.time()
    if invoice["amount_due"]:
        payment = _payment(account, invoice)
        payment_intents.succeed(account, _intent(account, payment))
        transitions = {**payment["status_transitions"], "paid_at": now}
        changes: Object = {"status": "paid", "amount_paid": invoice["amount_due"], "status_transitions": transitions}
        account.change(payment, changes, event="invoice_payment.paid")
    changes = {
        "status": "paid",
        "amount_paid": invoice["amount_due"],
        "amount_remaining": 0,
        "attempted": True,
        "attempt_count": invoice["attempt_count"] + bool(invoice["amount_due"]),
        "next_payment_attempt": None,
        "status_transitions": _reached(invoice, "paid_at", now),
    }
    account.change(invoice, changes, event="invoice.paid")
    account.publish("invoice.payment_succeeded", invoice)


def process(account: Account, invoice: Object) -> None:
    """Put the invoice's payment on its way; the invoice stays open until it settles."""
    payment_intents.process(account, _intent(account, _payment(account, invoice)))
    account.change(invoice, {"attempted": True, "attempt_count": 1})


def fail(account: Account, invoice: Object, *, code: str, message: str, retry: bool) -> None:
    """Have a try to collect the invoice fail."""
    payment_intents.fail(account, _intent(account, _payment(account, invoice)), code=code, message=message)
    changes = {
        "attempted": True,
        "attempt_count": invoice["attempt_count"] + 1,
        "next_payment_attempt": account.time() + RETRY_AFTER_S if retry else None,
    }
    account.change(invoice, changes, event="invoice.payment_failed")


def void(account: Account, invoice: Object) -> None:
    """Take an open invoice back."""
    _require_open(invoice)
    if invoice["amount_due"]:
        payment = _payment(account, invoice)
        payment_intents.cancel(account, _intent(account, payment))
        transitions = {**payment["status_transitions"], "canceled_at": account.time()}
        account.change(payment, {"status": "canceled", "status_transitions": transitions})
    changes: Object = {"status": "void", "next_payment_attempt": None, "amount_remaining": 0}
    changes["status_transitions"] = _reached(invoice, "voided_at", account.time())
    account.change(invoice, changes, event="invoice.voided")


def mark_uncollectible(account: Account, invoice: Object) -> None:
    """Write an open invoice off."""
    _require_open(invoice)
    transitions = _reached(invoice, "marked_uncollectible_at", account.time())
    changes = {"status": "uncollectible", "next_payment_attempt": None, "status_transitions": transitions}
    account.change(invoice, changes, event="invoice.marked_uncollectible")


def _blank(now: int, customer: Object, subscription: Object, reason: str) -> Object:
    details = {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]}
    return {
        "id": new_id(Kind.INVOICE),
        "object": Kind.INVOICE.value,
        **dict.fromkeys(_EMPTY),
        **dict.fromkeys(_ZERO, 0),
        "account_country": "DE",
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {**dict.fromkeys(("disabled_reason", "liability", "provider", "status")), "enabled": False},
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": now,
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "issuer": {"type": "self"},
        "livemode": False,
        "metadata": {},
        "number": f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}",
        "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"},
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "period_end": now,
        "period_start": now,
        "status": "draft",
        "status_transitions": dict.fromkeys(_TRANSITIONS),
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    }


def _require_open(invoice: Object) -> None:
    if invoice["status"] != "open":
        raise ApiError(f"This invoice is {invoice['status']}; only an open one can be changed so.")


def _request_payment(account: Account, invoice: Object, method: str) -> None:
    intent = payment_intents.create(
        account,
        amount=invoice["amount_due"],
        currency=invoice["currency"],
        customer=invoice["customer"],
        method=method,
        description="Subscription creation" if invoice["billing_reason"] == "subscription_create" else None,
    )
    account.add(
        {
            "id": new_id(Kind.INVOICE_PAYMENT),
            "object": Kind.INVOICE_PAYMENT.value,
            "amount_paid": None,
            "amount_requested": invoice["amount_due"],
            "created": account.time(),
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": False,
            "payment": {"payment_intent": intent["id"], "type": "payment_intent"},
            "status": "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }
    )


def _payment(account: Account, invoice: Object) -> Object:
    """Find the invoice's one payment; every invoice here that asks for money has exactly one."""
    return next(p for p in account.store.newest_first(Kind.INVOICE_PAYMENT) if p["invoice"] == invoice["id"])


def _intent(account: Account, payment: Object) -> Object:
    return account.find(Kind.PAYMENT_INTENT, payment["payment"]["payment_intent"])


def _reached(invoice: Object, name: str, now: int) -> Object:
    return {**invoice["status_transitions"], name: now}


def _line(line: Line, invoice_id: str, subscription: Object) -> Object:
    price = line.price
    return {
        "id": new_id(Kind.INVOICE_LINE),
        "object": Kind.INVOICE_LINE.value,
        "amount": line.amount,
        "currency": price["currency"],
        "description": None,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": dict(subscription["metadata"]),
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": line.proration,
                "proration_details": {"credited_items": None},
                "subscription": subscription["id"],
                "subscription_item": line.subscription_item,
            },
            "type": "subscription_item_details",
        },
        "period": {"start": line.start, "end": line.end},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": "0" if line.free else price["unit_amount_decimal"],
        },
        "quantity": line.quantity,
        "quantity_decimal": str(line.quantity),
        "subtotal": line.amount,
        "taxes": [],
    }
