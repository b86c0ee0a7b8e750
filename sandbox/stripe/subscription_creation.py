"""Subscriptions that are made without a checkout page: by a call, or by somebody in the dashboard.

https://docs.stripe.com/api/subscriptions/create
"""

from __future__ import annotations

import stripe.params as sdk

from sandbox.stripe import billing_cycle, cards, customers, discounts, dunning, invoices, payment_intents, subscriptions
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes


def _create(account: Account, call: Call) -> Object:
    params = call.params
    if "customer" not in params:
        raise missing_param("customer")
    customer = customers.find_live(account, params["customer"], param="customer")
    terms = _terms(account, params)
    lines = [_line(account, item, f"items[{index}]") for index, item in enumerate(params.get("items", ()))]
    if not lines:
        raise missing_param("items")
    is_charged = terms.days_until_due is None and not terms.trial_days and sum(p["unit_amount"] * q for p, q in lines)
    if is_charged and not terms.coupon and not cards.has_own(customer) and not _waits(params):
        raise ApiError(
            "This customer has no attached payment source or default payment method. Please consider adding a default"
            " payment method.",
            code="resource_missing",
        )
    subscription, invoice = subscriptions.start(
        account,
        customer=customer["id"],
        lines=lines,
        method=payment_intents.CARD,
        metadata=merged_metadata({}, params.get("metadata")),
        description=params.get("description"),
        terms=terms,
    )
    account.change(subscription, {"_no_payment_method": not cards.has_own(customer)})
    _ask(account, subscription, invoice, waits=_waits(params))
    return shown(subscription)


def _waits(params: Params) -> bool:
    """Tell whether the first payment is left to somebody who is asked for it, and not tried."""
    return bool(params.get("payment_behavior") == "default_incomplete")


def _ask(account: Account, subscription: Object, invoice: Object, *, waits: bool) -> None:
    """Have the first invoice paid, tried or sent, or, with `waits`, leave it to be paid within a day."""
    if not invoice["amount_due"]:
        invoices.pay(account, invoice)
    elif invoices.is_sent(invoice):
        billing_cycle.bill(account, invoice, subscription)
    elif not waits:
        outcome = cards.outcome_of(account, subscription)
        dunning.collect(account, invoice, subscription, outcome)
        if outcome is cards.CardOutcome.PROCESSING:
            subscriptions.activate(account, subscription)


def _terms(account: Account, params: Params) -> subscriptions.Terms:
    is_sent = params.get("collection_method") == invoices.SENT
    if is_sent != ("days_until_due" in params):
        message = "You must pass `days_until_due` when `collection_method` is set to `send_invoice`, and only then."
        raise ApiError(message, param="days_until_due")
    return subscriptions.Terms(
        trial_days=params.get("trial_period_days", 0),
        trial_settings=params.get("trial_settings"),
        coupon=discounts.named(account, params["discounts"]) if params.get("discounts") else None,
        days_until_due=params.get("days_until_due"),
    )


def _line(account: Account, item: Object, param: str) -> tuple[Object, int]:
    if "price" not in item:
        raise missing_param(f"{param}[price]")
    price = account.find(Kind.PRICE, item["price"], param=f"{param}[price]")
    if not price["active"] or not price["recurring"]:
        raise ApiError("This field only accepts active, recurring prices.", param=f"{param}[price]")
    return price, item.get("quantity", 1)


ROUTES = (
    Route(
        "POST",
        "/v1/subscriptions",
        _create,
        sdk.SubscriptionCreateParams,
        takes(
            "collection_method",
            "customer",
            "days_until_due",
            "description",
            "discounts.coupon",
            "items.price",
            "items.quantity",
            "metadata.*",
            "payment_behavior",
            "trial_period_days",
            "trial_settings.end_behavior.missing_payment_method",
        ),
    ),
)
