"""Changes that take effect only once they are paid: `payment_behavior=pending_if_incomplete`.

https://docs.stripe.com/billing/subscriptions/pending-updates. Until its invoice is paid, the subscription stays what it is and
shows the change as its `pending_update`. Nobody tries to collect that invoice by himself. After 23 hours, with the period or the
trial that runs, when its invoice is voided, or when another change of the items comes, the change is given up.
"""

from __future__ import annotations

import copy

from sandbox.stripe import invoices
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.objects import Kind, Object, Params

EXPIRES_S = 23 * 3600
# https://docs.stripe.com/billing/subscriptions/pending-updates-reference#supported-attributes, as far as they are taken here.
_SUPPORTED = frozenset({"expand", "items", "payment_behavior", "proration_behavior"})


def require_supported(params: Params) -> None:
    """Raise ApiError for what cannot wait for a payment."""
    for name in sorted(set(params) - _SUPPORTED):
        message = (
            f"You cannot use `payment_behavior=pending_if_incomplete` when passing the following parameters: {name}."
        )
        raise ApiError(message, param=name)


def hold(account: Account, subscription: Object, items: Object, invoice: Object) -> Object:
    """Tell what shows in a subscription while its change to these items waits for an invoice."""
    period_end = min(int(item["current_period_end"]) for item in subscription["items"]["data"])
    pending = {
        "billing_cycle_anchor": None,
        "expires_at": min(account.time() + EXPIRES_S, period_end),
        "subscription_items": copy.deepcopy(items["data"]),
        "trial_end": None,
        "trial_from_plan": None,
    }
    return {"latest_invoice": invoice["id"], "pending_update": pending, "_pending": [items, invoice["id"]]}


def waits_for(subscription: Object, invoice: Object) -> bool:
    """Tell whether a change of the subscription waits for this invoice."""
    return subscription["pending_update"] is not None and bool(subscription["_pending"][1] == invoice["id"])


def apply(account: Account, subscription: Object) -> None:
    """Let the change take effect: its invoice is paid."""
    items, _ = subscription["_pending"]
    changes = {"items": items, "pending_update": None, "_pending": None}
    account.change(subscription, changes, event="customer.subscription.pending_update_applied")


def give_up(account: Account, subscription: Object) -> None:
    """Drop the change that waits, if there is one, and void its invoice."""
    if subscription["pending_update"] is None:
        return
    _, invoice_id = subscription["_pending"]
    invoice = account.find(Kind.INVOICE, invoice_id)
    account.change(
        subscription,
        {"pending_update": None, "_pending": None},
        event="customer.subscription.pending_update_expired",
    )
    if invoice["status"] == "open":
        invoices.void(account, invoice)
