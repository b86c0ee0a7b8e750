"""What a payer does with an open session, and how a payment that settles later ends.

https://docs.stripe.com/payments/checkout/fulfill-orders: `completed` with payment_status `unpaid` is a delayed payment;
`async_payment_succeeded` or `async_payment_failed` follows.
"""

from __future__ import annotations

from enum import StrEnum

from sandbox.stripe import customers, dunning, invoices, payment_intents, subscriptions
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.objects import Kind, Object

_DECLINED = ("card_declined", "Your card was declined.")
_DEBIT_FAILED = ("payment_intent_payment_attempt_failed", "The bank returned the debit: insufficient funds.")


class Outcome(StrEnum):
    """What comes of a try to pay."""

    PAID = "paid"
    PROCESSING = "processing"
    DECLINED = "declined"
    INCOMPLETE = "incomplete"  # a subscription is made, and its first payment waits for the bank's consent


class Settlement(StrEnum):
    """How a payment that was processing ends."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


def complete(account: Account, session: Object, outcome: Outcome) -> Object | None:
    """Pay an open session and return its checkout.session.completed event.

    A declined or incomplete one stays open and returns None. Raises ApiError for a session that is not open.
    """
    if session["status"] != "open":
        raise ApiError(f"This Checkout Session is {session['status']}; only an open one can be paid.")
    if session["payment_status"] == "no_payment_required" or _is_covered(account, session):
        outcome = Outcome.PAID  # nothing is asked for, so nothing can be declined or late
    if outcome is Outcome.DECLINED:
        code, message = _DECLINED
        payment_intents.fail(
            account, _payment_intent(account, session, payment_intents.CARD), code=code, message=message
        )
        return None
    customer = _customer(account, session)
    if outcome is Outcome.INCOMPLETE:
        _begin(account, session, customer)
        return None
    bought = _subscribe if session["mode"] == "subscription" else _buy
    changes = bought(account, session, customer, outcome)
    unpaid = session["payment_status"] if outcome is Outcome.PROCESSING else "paid"
    changes |= {
        "status": "complete",
        "url": None,
        "customer": customer,
        "payment_status": "no_payment_required" if session["payment_status"] == "no_payment_required" else unpaid,
        "_settles": outcome is Outcome.PROCESSING,
        "_settles_at": account.time() + invoices.DEBIT_DAYS_S,
    }
    event = account.change(session, changes, event="checkout.session.completed")
    if outcome is not Outcome.PROCESSING:
        _note(account, session, "_paid_at", event)
    return event


def _is_covered(account: Account, session: Object) -> bool:
    """Tell whether what the customer has pays for a subscription; other purchases do not ask for it."""
    customer = account.store.get(Kind.CUSTOMER, session["customer"] or "")
    return bool(customer and session["mode"] == "subscription" and customer["balance"] + session["amount_total"] <= 0)


def _note(account: Account, session: Object, name: str, event: Object | None) -> None:
    """Note when something was, by the event that said so: the second may have turned meanwhile."""
    account.change(session, {name: account.time() if event is None else event["created"]})


def settle(account: Account, session: Object, settlement: Settlement) -> None:
    """End a payment that is processing. Raises ApiError when none is."""
    if not session.get("_settles"):
        raise ApiError(
            "This Checkout Session has no payment on its way; complete it with the outcome processing first."
        )
    succeeded = settlement is Settlement.SUCCEEDED
    if session["mode"] == "subscription":
        succeeded = _settle_invoice(account, session, succeeded=succeeded)
    else:
        intent = account.find(Kind.PAYMENT_INTENT, session["payment_intent"])
        if succeeded:
            payment_intents.succeed(account, intent)
        else:
            payment_intents.fail(account, intent, code=_DEBIT_FAILED[0], message=_DEBIT_FAILED[1])
    changes: Object = {"_settles": False, "payment_status": "paid" if succeeded else "unpaid"}
    said = f"checkout.session.async_payment_{'succeeded' if succeeded else 'failed'}"
    event = account.change(session, changes, event=said)
    _note(account, session, "_paid_at" if succeeded else "_failed_at", event)


def _settle_invoice(account: Account, session: Object, *, succeeded: bool) -> bool:
    """Settle the first invoice; when it fails it is voided and the subscription stays active, as at Stripe.

    One that was paid otherwise, taken back or written off meanwhile has decided already. Returns whether it is paid.
    """
    invoice = account.find(Kind.INVOICE, session["invoice"])
    if invoice["status"] == "open":
        dunning.settle(account, invoice, account.find(Kind.SUBSCRIPTION, session["subscription"]), succeeded=succeeded)
    return bool(invoice["status"] == "paid")


def _customer(account: Account, session: Object) -> str | None:
    """Tell who pays; Checkout makes a customer where the mode or the request needs one and none was named."""
    if session["customer"]:
        return str(customers.find_live(account, session["customer"], param="customer")["id"])
    if session["mode"] == "payment" and session["customer_creation"] != "always":
        return None
    email = session["customer_email"]
    return str(customers.create(account, {"email": email} if email else {})["id"])


def _buy(account: Account, session: Object, customer: str | None, outcome: Outcome) -> Object:
    if not session["amount_total"]:
        return {}
    method = payment_intents.BANK_DEBIT if outcome is Outcome.PROCESSING else payment_intents.CARD
    intent = _payment_intent(account, session, method)
    account.change(intent, {"customer": customer})
    if outcome is Outcome.PROCESSING:
        payment_intents.process(account, intent)
    else:
        payment_intents.succeed(account, intent)
    return {"payment_intent": intent["id"]}


def _payment_intent(account: Account, session: Object, method: str) -> Object:
    """Find or make the session's payment intent: tries after a declined one use the same."""
    if session["_payment_intent"]:
        intent = account.find(Kind.PAYMENT_INTENT, session["_payment_intent"])
        account.change(intent, {"amount": session["amount_total"]})  # a code may have been typed since
        return intent
    data = session["_payment_intent_data"]
    intent = payment_intents.create(
        account,
        amount=session["amount_total"],
        currency=session["currency"],
        customer=session["customer"],
        method=method,
        metadata=data.get("metadata"),
        description=data.get("description"),
    )
    account.change(session, {"_payment_intent": intent["id"]})
    return intent


def _subscribe(account: Account, session: Object, customer: str | None, outcome: Outcome) -> Object:
    subscription, invoice = _begun(account, session) or _start(account, session, customer, outcome)
    if outcome is Outcome.PROCESSING:
        invoices.process(account, invoice)
        account.change(invoice, {"_in_checkout": True})
    else:
        invoices.pay(account, invoice)
    subscriptions.activate(account, subscription)
    return {"subscription": subscription["id"], "invoice": invoice["id"]}


def _begin(account: Account, session: Object, customer: str | None) -> None:
    """Make the subscription before its first payment is there. Raises ApiError where there is none to make."""
    if session["mode"] != "subscription" or _begun(account, session):
        raise ApiError("Only a first try to pay for a subscription can be left incomplete.")
    subscription, invoice = _start(account, session, customer, Outcome.PAID)
    invoices.require_action(account, invoice)
    account.change(session, {"_begun": subscription["id"]})


def _begun(account: Account, session: Object) -> tuple[Object, Object] | None:
    """Find what an incomplete try left behind, while it can still be paid."""
    subscription = account.store.get(Kind.SUBSCRIPTION, session.get("_begun") or "")
    if subscription is None or subscription["status"] != "incomplete":
        return None
    return subscription, account.find(Kind.INVOICE, subscription["latest_invoice"])


def _start(account: Account, session: Object, customer: str | None, outcome: Outcome) -> tuple[Object, Object]:
    data = session["_subscription_data"]
    subscription, invoice = subscriptions.start(
        account,
        customer=str(customer),
        lines=[(account.find(Kind.PRICE, i["price"]["id"]), i["quantity"]) for i in session["_line_items"]],
        method=payment_intents.BANK_DEBIT if outcome is Outcome.PROCESSING else payment_intents.CARD,
        metadata=data.get("metadata", {}),
        description=data.get("description"),
        terms=subscriptions.Terms(
            trial_days=data.get("trial_period_days", 0),
            trial_settings=data.get("trial_settings"),
            coupon=account.find(Kind.COUPON, session["_coupon"]) if session.get("_coupon") else None,
        ),
    )
    unneeded = session["payment_method_collection"] == "if_required" and not session["amount_total"]
    account.change(subscription, {"_no_payment_method": unneeded})
    return subscription, invoice
