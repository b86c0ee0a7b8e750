"""What the account holds of each of our customers, by metadata: for tests that work out by themselves what must be."""

from __future__ import annotations

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.rendering import shown

CUSTOMER_KEY = "billing_customer_id"

_OWNED = {
    "checkout_sessions": Kind.CHECKOUT_SESSION,
    "subscriptions": Kind.SUBSCRIPTION,
    "invoices": Kind.INVOICE,
    "charges": Kind.CHARGE,
}
_BY_PAYMENT = {"refunds": Kind.REFUND, "disputes": Kind.DISPUTE}
# What only events say, in seconds since the epoch; the last by invoice.
_NOTES = {"_failed_at": "failed_at", "_paid_at": "paid_at", "_overdue": "overdue"}


def truth_of(account: Account, customer_id: str | None = None) -> Object:
    """Give every object of one of our customers, or of all, as it is now; "notes" has what objects do not show."""
    found: dict[str, Object] = {}
    owners: dict[str, str] = {}
    for customer in account.store.all(Kind.CUSTOMER):
        owner = customer["metadata"].get(CUSTOMER_KEY)
        if owner is not None and customer_id in {None, owner}:
            owners[customer["id"]] = owner
            stripe = found.setdefault(owner, _blank())["customers"]
            stripe.append({**shown(customer), "deleted": bool(customer.get("deleted"))})
    for name, kind in _OWNED.items():
        for obj in account.store.all(kind):
            if obj["customer"] in owners:
                _put(found[owners[obj["customer"]]], name, obj)
    _put_payments(account, found, owners)
    return {"now": account.time(), "customers": found}


def _put_payments(account: Account, found: dict[str, Object], owners: dict[str, str]) -> None:
    intents = {
        i["id"]: owners[i["customer"]] for i in account.store.all(Kind.PAYMENT_INTENT) if i["customer"] in owners
    }
    for name, kind in _BY_PAYMENT.items():
        for obj in account.store.all(kind):
            if obj["payment_intent"] in intents:
                _put(found[intents[obj["payment_intent"]]], name, obj)
    for payment in account.store.all(Kind.INVOICE_PAYMENT):
        owner = intents.get(payment["payment"].get("payment_intent"))
        if owner is not None:
            _put(found[owner], "invoice_payments", payment)


def _blank() -> Object:
    return {name: [] for name in ("customers", *_OWNED, *_BY_PAYMENT, "invoice_payments")} | {"notes": {}}


def _put(customer: Object, name: str, obj: Object) -> None:
    customer[name].append(shown(obj, whole=True))
    notes = {told: obj[key] for key, told in _NOTES.items() if obj.get(key) is not None}
    if notes:
        customer["notes"][obj["id"]] = notes
