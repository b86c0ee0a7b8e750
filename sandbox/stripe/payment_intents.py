"""Payment intents and their charges: one try to move money, of which none moves here."""

from __future__ import annotations

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.identifiers import new_id, random_text
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

# The two ways to pay that the hosted page offers, by Stripe's names of their payment methods.
CARD = "card"
BANK_DEBIT = "sepa_debit"

# Fields that are null in a payment intent that waits for a payment.
_EMPTY = (
    "application",
    "application_fee_amount",
    "automatic_payment_methods",
    "canceled_at",
    "cancellation_reason",
    "customer_account",
    "excluded_payment_method_types",
    "last_payment_error",
    "latest_charge",
    "next_action",
    "on_behalf_of",
    "payment_method",
    "payment_method_configuration_details",
    "processing",
    "receipt_email",
    "review",
    "setup_future_usage",
    "shipping",
    "source",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
)

# Fields that a charge has at Stripe and that are null here.
_EMPTY_IN_CHARGES = (
    "application",
    "application_fee",
    "application_fee_amount",
    "balance_transaction",
    "calculated_statement_descriptor",
    "failure_balance_transaction",
    "on_behalf_of",
    "outcome",
    "payment_method",
    "receipt_email",
    "receipt_number",
    "receipt_url",
    "review",
    "shipping",
    "source",
    "source_transfer",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
)


def create(
    account: Account,
    *,
    amount: int,
    currency: str,
    customer: str | None,
    method: str,
    metadata: dict[str, str] | None = None,
    description: str | None = None,
) -> Object:
    """Make a payment intent of `amount` minor units that waits for a payment."""
    intent_id = new_id(Kind.PAYMENT_INTENT)
    intent: Object = {
        "id": intent_id,
        "object": Kind.PAYMENT_INTENT.value,
        **dict.fromkeys(_EMPTY),
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "capture_method": "automatic",
        "client_secret": f"{intent_id}_secret_{random_text(25)}",
        "confirmation_method": "automatic",
        "created": account.time(),
        "currency": currency,
        "customer": customer,
        "description": description,
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": dict(metadata or {}),
        "payment_method_options": {},
        "payment_method_types": [method],
        "status": "requires_payment_method",
    }
    return account.add(intent, event="payment_intent.created")


def succeed(account: Account, intent: Object) -> None:
    """Have the payment arrive."""
    charge = _charge(account, intent, status="succeeded")
    account.publish("charge.succeeded", charge)
    account.change(
        intent,
        {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "latest_charge": charge["id"],
            "last_payment_error": None,
            "next_action": None,
            "processing": None,
        },
        event="payment_intent.succeeded",
    )


def process(account: Account, intent: Object) -> None:
    """Put the payment on its way: a bank debit takes days."""
    account.change(
        intent,
        {"status": "processing", "payment_method_types": [BANK_DEBIT], "last_payment_error": None},
        event="payment_intent.processing",
    )


def require_action(account: Account, intent: Object) -> None:
    """Have the bank ask the payer for consent before it pays."""
    changes = {"status": "requires_action", "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {}}}
    account.change(intent, changes, event="payment_intent.requires_action")


def fail(account: Account, intent: Object, *, code: str, message: str) -> None:
    """Have the payment refused; the intent can be tried again."""
    charge = _charge(account, intent, status="failed", failure=(code, message))
    account.publish("charge.failed", charge)
    error = {"charge": charge["id"], "code": code, "message": message, "type": "card_error"}
    account.change(
        intent,
        {
            "status": "requires_payment_method",
            "last_payment_error": error,
            "latest_charge": charge["id"],
            "processing": None,
        },
        event="payment_intent.payment_failed",
    )


def cancel(account: Account, intent: Object) -> None:
    """Give the payment up."""
    if intent["status"] not in {"succeeded", "canceled"}:
        changes = {"status": "canceled", "canceled_at": account.time(), "cancellation_reason": "void_invoice"}
        account.change(intent, changes, event="payment_intent.canceled")


def _charge(account: Account, intent: Object, *, status: str, failure: tuple[str, str] | None = None) -> Object:
    charge_id = new_id(Kind.CHARGE)
    paid = status == "succeeded"
    return account.add(
        {
            "id": charge_id,
            "object": Kind.CHARGE.value,
            **dict.fromkeys(_EMPTY_IN_CHARGES),
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if paid else 0,
            "amount_refunded": 0,
            "captured": paid,
            "created": account.time(),
            "currency": intent["currency"],
            "customer": intent["customer"],
            "description": intent["description"],
            "disputed": False,
            "fraud_details": {},
            "failure_code": failure[0] if failure else None,
            "failure_message": failure[1] if failure else None,
            "livemode": False,
            "metadata": dict(intent["metadata"]),
            "paid": paid,
            "payment_intent": intent["id"],
            "payment_method_details": {"type": intent["payment_method_types"][0]},
            "refunded": False,
            "status": status,
        }
    )


def _list(account: Account, call: Call) -> Object:
    found = [
        intent
        for intent in account.store.newest_first(Kind.PAYMENT_INTENT)
        if has_fields(intent, call.params, "customer") and created_within(intent, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/payment_intents")


def _list_charges(account: Account, call: Call) -> Object:
    found = [
        charge
        for charge in account.store.newest_first(Kind.CHARGE)
        if has_fields(charge, call.params, "customer", "payment_intent")
        and created_within(charge, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/charges")


ROUTES = (
    Route("GET", "/v1/payment_intents", _list, sdk.PaymentIntentListParams, LIST_PARAMS | {"created.*", "customer"}),
    Route(
        "GET",
        "/v1/payment_intents/{id}",
        lambda account, call: shown(account.find(Kind.PAYMENT_INTENT, call.path["id"])),
        sdk.PaymentIntentRetrieveParams,
        takes(),
    ),
    Route(
        "GET",
        "/v1/charges",
        _list_charges,
        sdk.ChargeListParams,
        LIST_PARAMS | {"created.*", "customer", "payment_intent"},
    ),
    Route(
        "GET",
        "/v1/charges/{id}",
        lambda account, call: shown(account.find(Kind.CHARGE, call.path["id"])),
        sdk.ChargeRetrieveParams,
        takes(),
    ),
)
