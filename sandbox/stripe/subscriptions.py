"""Subscriptions: how they begin, change and end. What time does to them: `billing_cycle`.

https://docs.stripe.com/billing/subscriptions/overview. An update sends an invoice where it asks for prorations
at once: `prorations`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sandbox.stripe import discounts, invoices, pending_updates, subscription_schedules
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, resource_missing
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.intervals import period_end
from sandbox.stripe.invoice_shape import Line
from sandbox.stripe.objects import Kind, Object, list_of

ENDED = frozenset({"canceled", "incomplete_expired"})
_DAY_S = 24 * 3600

# Fields that are null in a subscription that has just begun.
_EMPTY = (
    "application",
    "application_fee_percent",
    "billing_cycle_anchor_config",
    "billing_thresholds",
    "cancel_at",
    "canceled_at",
    "currency",
    "customer_account",
    "days_until_due",
    "default_payment_method",
    "default_source",
    "description",
    "ended_at",
    "latest_invoice",
    "next_pending_invoice_item_invoice",
    "on_behalf_of",
    "pause_collection",
    "pending_invoice_item_interval",
    "pending_setup_intent",
    "pending_update",
    "schedule",
    "status_details",
    "test_clock",
    "transfer_data",
)


@dataclass(frozen=True)
class Terms:
    """On which terms a subscription begins."""

    trial_days: int = 0
    trial_settings: Object | None = None
    coupon: Object | None = None
    days_until_due: int | None = None  # of invoices that are sent to be paid; None: they are charged automatically


def start(
    account: Account,
    *,
    customer: str,
    lines: Sequence[tuple[Object, int]],
    method: str,
    metadata: dict[str, str],
    description: str | None = None,
    terms: Terms | None = None,
) -> tuple[Object, Object]:
    """Make a subscription of (price, quantity) lines with its first invoice: open, or a draft where it is to be sent.

    It begins `incomplete`: `activate` follows once its payment is there or on its way. With a trial it is `trialing`; where
    nothing is asked for, or it is sent an invoice, `active`. One-time prices among the lines are on the first invoice alone.
    """
    terms = terms or Terms()
    now = account.time()
    trial_end = now + terms.trial_days * _DAY_S if terms.trial_days else None
    subscription = _blank(account, customer, metadata, trial_end)
    if terms.trial_settings:
        subscription["trial_settings"] = terms.trial_settings
    if terms.days_until_due is not None:
        subscription |= {"collection_method": invoices.SENT, "days_until_due": terms.days_until_due}
    if terms.coupon:
        discounts.give(account, subscription, terms.coupon)
    recurring = [line for line in lines if line[0]["recurring"]]
    items = [new_item(account, subscription, price, quantity) for price, quantity in recurring]
    subscription["items"]["data"] = items
    subscription |= {"currency": recurring[0][0]["currency"], "description": description}
    extra = [Line(price, quantity, now, now) for price, quantity in lines if not price["recurring"]]
    invoice = invoices.draft(
        account, subscription, "subscription_create", [*lines_of(items, free=bool(terms.trial_days)), *extra]
    )
    subscription["latest_invoice"] = invoice["id"]
    sent = invoices.is_sent(invoice) and invoice["amount_due"]
    if subscription["status"] == "incomplete" and (sent or not invoice["amount_due"]):
        subscription["status"] = "active"
    account.add(subscription, event="customer.subscription.created")
    if not sent:
        invoices.issue(account, invoice, method=method)
    return subscription, invoice


def activate(account: Account, subscription: Object) -> None:
    """Let the subscription run: its first payment is there, or on its way by bank debit."""
    if subscription["status"] in {"incomplete", "past_due", "unpaid"}:
        account.change(subscription, {"status": "active"}, event="customer.subscription.updated")


def expire_incomplete(account: Account, subscription: Object) -> None:
    """End a subscription whose first payment never came."""
    changes = {"status": "incomplete_expired", "ended_at": account.time()}
    account.change(subscription, changes, event="customer.subscription.updated")


class Pause(StrEnum):
    """Why a subscription is paused: https://docs.stripe.com/api/subscriptions/object#subscription_object-status_details."""

    REQUESTED = "pause_requested"
    TRIAL = "trial_end_without_payment_method"
    UNPAID = "final_payment_failure"


def pause(account: Account, subscription: Object, why: Pause = Pause.REQUESTED) -> None:
    """Stop the subscription until it is resumed. Raises ApiError for one that does not run."""
    if subscription["status"] not in {"active", "trialing"} and why is not Pause.UNPAID:
        raise ApiError(f"A subscription that is {subscription['status']} cannot be paused.")
    details = {"subscription": {"type": why.value}, "transitioned_at": account.time(), "type": "subscription"}
    changes = {"status": "paused", "status_details": {"paused": details}}
    account.change(subscription, changes, event="customer.subscription.paused")


def unpause(account: Account, subscription: Object) -> None:
    """Let a paused subscription run again: its resumption invoice, or that for which it was paused, is paid or taken back."""
    account.change(subscription, {"status": "active", "status_details": None}, event="customer.subscription.resumed")


def cancel(account: Account, subscription: Object, *, reason: str = "cancellation_requested") -> None:
    """End the subscription now; open invoices stay, and are not collected any more.

    Raises resource_missing when it has ended, as Stripe does.
    """
    if subscription["status"] in ENDED:
        raise resource_missing(Kind.SUBSCRIPTION, subscription["id"], status=404)
    now = account.time()
    changes = {
        "status": "canceled",
        "ended_at": now,
        "canceled_at": subscription["canceled_at"] or now,
        "cancellation_details": {**subscription["cancellation_details"], "reason": reason},
        **subscription_schedules.cancel(account, subscription),
    }
    pending_updates.give_up(account, subscription)
    account.change(subscription, changes, event="customer.subscription.deleted")


def cancel_at_period_end(account: Account, subscription: Object, *, wanted: bool) -> None:
    """Have the subscription end with its period, or no longer."""
    require_live(subscription)
    account.change(
        subscription, cancellation(account, subscription, wanted=wanted), event="customer.subscription.updated"
    )


def _blank(account: Account, customer: str, metadata: dict[str, str], trial_end: int | None) -> Object:
    now = account.time()
    subscription_id = new_id(Kind.SUBSCRIPTION)
    return {
        "id": subscription_id,
        "object": Kind.SUBSCRIPTION.value,
        **dict.fromkeys(_EMPTY),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": trial_end or now,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": now,
        "customer": customer,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": list_of([], f"/v1/subscription_items?subscription={subscription_id}"),
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": dict(metadata),
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "start_date": now,
        "status": "trialing" if trial_end else "incomplete",
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": now if trial_end else None,
    }


def new_item(account: Account, subscription: Object, price: Object, quantity: int) -> Object:
    """Make a subscription item whose first period begins now and ends as the subscription's anchor says."""
    now = account.time()
    interval, count = price["recurring"]["interval"], price["recurring"]["interval_count"]
    anchor = subscription["billing_cycle_anchor"]
    return {
        "id": new_id(Kind.SUBSCRIPTION_ITEM),
        "object": Kind.SUBSCRIPTION_ITEM.value,
        "billing_thresholds": None,
        "created": now,
        "current_period_end": anchor if anchor > now else period_end(anchor, now, interval, count),
        "current_period_start": now,
        "discounts": [],
        "metadata": {},
        "price": copy.deepcopy(price),
        "quantity": quantity,
        "subscription": subscription["id"],
        "tax_rates": [],
    }


def lines_of(items: Sequence[Object], *, free: bool = False) -> list[Line]:
    """Write what items cost in their present period; nothing in a trial."""
    return [
        Line(
            item["price"],
            item["quantity"],
            item["current_period_start"],
            item["current_period_end"],
            item["id"],
            free=free,
        )
        for item in items
    ]


def first_period_end(subscription: Object) -> int:
    """Tell when the period of the item that ends first is over."""
    return min(int(item["current_period_end"]) for item in subscription["items"]["data"])


def ends_before_next_period(subscription: Object) -> bool:
    """Tell whether the subscription is to end with the period that runs."""
    cancel_at = subscription["cancel_at"]
    return subscription["cancel_at_period_end"] or (
        cancel_at is not None and cancel_at <= first_period_end(subscription)
    )


def require_live(subscription: Object) -> None:
    """Raise ApiError for a subscription that has ended."""
    if subscription["status"] in ENDED:
        raise ApiError("A canceled subscription can only update its cancellation_details and metadata.")


def cancellation(account: Account, subscription: Object, *, wanted: bool) -> Object:
    """Tell the changes that make a subscription end with its period (`wanted`), or no longer."""
    if not wanted:
        details = {**subscription["cancellation_details"], "reason": None}
        return {"cancel_at_period_end": False, "cancel_at": None, "canceled_at": None, "cancellation_details": details}
    return {
        "cancel_at_period_end": True,
        "cancel_at": first_period_end(subscription),
        "canceled_at": account.time(),
        "cancellation_details": {**subscription["cancellation_details"], "reason": "cancellation_requested"},
    }
