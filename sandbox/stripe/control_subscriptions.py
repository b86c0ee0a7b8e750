"""Controls of subscriptions: what time and people in the dashboard do to them."""

from __future__ import annotations

from pydantic import Field

from sandbox.stripe import billing_cycle, extras, prices, subscription_schedules, subscriptions
from sandbox.stripe.control_payments import Collection
from sandbox.stripe.control_route import Body, Control, Nothing, Surroundings
from sandbox.stripe.errors import ApiError
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.route import Call
from sandbox.stripe.subscription_endpoints import update


class _Cancellation(Body):
    at_period_end: bool = False


class _Change(Body):
    lookup_key: str | None = None
    quantity: int | None = Field(default=None, ge=0)
    pending_if_incomplete: bool = False  # invoiced at once, and in effect only when that is paid


class _Extra(Body):
    amount: int


def _renew(around: Surroundings, subscription_id: str, body: Collection) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    billing_cycle.renew(around.account, subscription, body.card)
    return subscription


def _cancel(around: Surroundings, subscription_id: str, body: _Cancellation) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    if body.at_period_end:
        subscription_schedules.require_free(subscription, {"cancel_at_period_end": True})
        subscriptions.cancel_at_period_end(around.account, subscription, wanted=True)
    else:
        subscriptions.cancel(around.account, subscription)
    return subscription


def _keep(around: Surroundings, subscription_id: str, _: Nothing) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    subscriptions.cancel_at_period_end(around.account, subscription, wanted=False)
    return subscription


def _change(around: Surroundings, subscription_id: str, body: _Change) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    item: Object = {"id": subscription["items"]["data"][0]["id"]}
    if body.quantity is not None:
        item["quantity"] = body.quantity
    if body.lookup_key is not None:
        price = prices.by_lookup_key(around.account, body.lookup_key)
        if price is None:
            raise ApiError(f"No price has the lookup key '{body.lookup_key}'.", param="lookup_key")
        item["price"] = price["id"]
    payment = {"payment_behavior": "pending_if_incomplete", "proration_behavior": "always_invoice"}
    params = {"items": [item], **(payment if body.pending_if_incomplete else {})}
    return update(around.account, Call({"id": subscription_id}, params))


def _extra(around: Surroundings, subscription_id: str, body: _Extra) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    extras.ask(around.account, subscription, body.amount)
    return subscription


def _pause(around: Surroundings, subscription_id: str, _: Nothing) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    subscriptions.pause(around.account, subscription)
    return subscription


def _resume(around: Surroundings, subscription_id: str, _: Nothing) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    billing_cycle.resume(around.account, subscription)
    return subscription


_ONE = "/_control/subscriptions/{id}"

CONTROLS = (
    Control("POST", f"{_ONE}/renew", "begin the next period and collect, or fail to", Collection, _renew),
    Control("POST", f"{_ONE}/cancel", "end a subscription, now or with its period", _Cancellation, _cancel),
    Control("POST", f"{_ONE}/keep", "take a cancellation at the period's end back", Nothing, _keep),
    Control("POST", f"{_ONE}/change", "change the first item's price (by lookup key) or quantity", _Change, _change),
    Control("POST", f"{_ONE}/extra", "ask for an extra (minor units), below zero a credit, by hand", _Extra, _extra),
    Control("POST", f"{_ONE}/pause", "pause a subscription", Nothing, _pause),
    Control("POST", f"{_ONE}/resume", "resume a paused subscription with a new period", Nothing, _resume),
)
