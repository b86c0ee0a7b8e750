"""The shape of an invoice and its lines, as the API shows them since 2025-03-31.basil.

The subscription is named in `parent.subscription_details`. https://docs.stripe.com/api/invoices/object
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object

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
# Fields that hold the invoice's sum, before and after discounts, until something is paid; there are no taxes here.
SUBTOTALS = ("subtotal", "subtotal_excluding_tax")
TOTALS = ("amount_due", "amount_remaining", "total", "total_excluding_tax")
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


def blank(now: int, customer: Object, subscription: Object, reason: str) -> Object:
    """Shape a draft without lines; `reason` is Stripe's billing_reason."""
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
        "collection_method": subscription["collection_method"],
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
        "_days_until_due": subscription["days_until_due"],
    }


def shaped_line(line: Line, invoice_id: str, subscription: Object) -> Object:
    """Shape one line of an invoice."""
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
