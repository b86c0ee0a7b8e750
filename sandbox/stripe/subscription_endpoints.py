"""The API's endpoints of subscriptions: read, update, cancel. How they live: `subscriptions`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import stripe.params as sdk

from sandbox.stripe import billing_cycle, discounts, pending_updates, prorations, subscription_schedules
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param, resource_missing
from sandbox.stripe.invoices import SENT
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.pauses import pause_collection
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes
from sandbox.stripe.subscriptions import ENDED, cancel, cancellation, new_item, pause, require_live

ITEMS_LIMIT = 20  # Stripe's own


def update(account: Account, call: Call) -> Object:
    """Update a subscription as the API does. Raises ApiError for what Stripe refuses."""
    subscription, params = account.find(Kind.SUBSCRIPTION, call.path["id"]), call.params
    if set(params) - {"metadata", "expand"}:
        require_live(subscription)
    if "cancel_at" in params and "cancel_at_period_end" in params:
        raise ApiError("You may only specify one of these parameters: cancel_at, cancel_at_period_end.")
    subscription_schedules.require_free(subscription, params)
    changes: Object = {"metadata": merged_metadata(subscription["metadata"], params.get("metadata"))}
    if "description" in params:
        changes["description"] = params["description"] or None
    if "cancel_at_period_end" in params:
        changes |= cancellation(account, subscription, wanted=params["cancel_at_period_end"])
    if "cancel_at" in params:
        changes |= _cancellation_at(account, subscription, params["cancel_at"])
    changes |= _collection(params)
    if "pause_collection" in params:
        changes |= pause_collection(account, params["pause_collection"])
    if params.get("discounts"):
        discounts.give(account, subscription, discounts.named(account, params["discounts"]))
    if "items" in params:
        changes |= _items_changed(account, subscription, params)
    if params.get("billing_cycle_anchor", {}).get("type") == "now" or params.get("trial_end") == "now":
        account.change(subscription, changes)
        billing_cycle.restart(account, subscription)
    else:
        account.change(subscription, changes, event="customer.subscription.updated")
    return shown(subscription)


def _items_changed(account: Account, subscription: Object, params: Params) -> Object:
    """Tell what changed items change, with what they cost collected where that is asked for now."""
    items = updated_items(account, subscription, params["items"])
    # Of what is sent to be paid no payment is waited for.
    is_charged = subscription["collection_method"] != SENT
    waits = params.get("payment_behavior") == "pending_if_incomplete" and is_charged
    if waits:
        pending_updates.require_supported(params)
    if params.get("proration_behavior") != "always_invoice":
        pending_updates.give_up(account, subscription)
        return {"items": items}
    if not waits:
        paid = _charged(account, subscription, items["data"], params)
        pending_updates.give_up(account, subscription)
        return {"items": items, **paid}
    pending_updates.give_up(account, subscription)
    invoice = prorations.invoice_change(account, subscription, items["data"])
    if invoice is not None and invoice["status"] != "paid":
        return pending_updates.hold(account, subscription, items, invoice)
    return {"items": items, **({"latest_invoice": invoice["id"]} if invoice else {})}


def _charged(account: Account, subscription: Object, items: Sequence[Object], params: Params) -> Object:
    """Collect a change at once. One whose payment fails is made all the same where Stripe is not asked to refuse it; that is not played here."""
    try:
        return prorations.charge(account, subscription, items)
    except ApiError as error:
        if params.get("payment_behavior") != "error_if_incomplete":
            raise ApiError(
                "Only `error_if_incomplete` is played where the payment fails.", param="payment_behavior"
            ) from error
        raise


def _collection(params: Params) -> Object:
    """Tell the changes of how invoices are collected from now on, and of what the end of a trial does."""
    changes: Object = {name: params[name] for name in ("trial_settings",) if name in params}
    if "collection_method" not in params:
        return changes
    if (params["collection_method"] == SENT) != ("days_until_due" in params):
        message = "You must pass `days_until_due` when `collection_method` is set to `send_invoice`, and only then."
        raise ApiError(message, param="days_until_due")
    collected = {"collection_method": params["collection_method"], "days_until_due": params.get("days_until_due")}
    return changes | collected


def _pause(account: Account, call: Call) -> Object:
    subscription = account.find(Kind.SUBSCRIPTION, call.path["id"])
    pause(account, subscription)
    return shown(subscription)


def _resume(account: Account, call: Call) -> Object:
    subscription = account.find(Kind.SUBSCRIPTION, call.path["id"])
    billing_cycle.resume(account, subscription)
    return shown(subscription)


def _cancellation_at(account: Account, subscription: Object, cancel_at: Any) -> Object:
    if not cancel_at:
        return cancellation(account, subscription, wanted=False)
    if not isinstance(cancel_at, int):
        raise ApiError(f"The stand-in for Stripe takes a timestamp here, not '{cancel_at}'.", param="cancel_at")
    if cancel_at <= account.time():
        raise ApiError("`cancel_at` must be in the future.", param="cancel_at")
    changes = cancellation(account, subscription, wanted=True)
    return {**changes, "cancel_at_period_end": False, "cancel_at": cancel_at}


def updated_items(account: Account, subscription: Object, given: Sequence[Object]) -> Object:
    """Give a subscription's items as an `items` parameter makes them. Raises ApiError for what Stripe refuses."""
    items: Object = copy.deepcopy(subscription["items"])
    by_id = {item["id"]: item for item in items["data"]}
    for index, change in enumerate(given):
        item = by_id.get(change.get("id", ""))
        if "id" in change and item is None:
            raise resource_missing(Kind.SUBSCRIPTION_ITEM, change["id"], param=f"items[{index}][id]")
        if change.get("deleted"):
            if item is None:
                raise missing_param(f"items[{index}][id]")
            del by_id[item["id"]]
            continue
        updated = _changed_item(account, subscription, item, change, f"items[{index}][price]")
        by_id[updated["id"]] = updated
    if not 1 <= len(by_id) <= ITEMS_LIMIT:
        raise ApiError(f"A subscription must have 1 to {ITEMS_LIMIT} items.", param="items")
    return {**items, "data": list(by_id.values())}


def _changed_item(account: Account, subscription: Object, item: Object | None, change: Object, param: str) -> Object:
    if item is None and "price" not in change:
        raise missing_param(param)
    if "price" not in change:
        return {**(item or {}), "quantity": change.get("quantity", (item or {}).get("quantity", 1))}
    price = account.find(Kind.PRICE, change["price"], param=param)
    if not price["active"]:
        raise ApiError("The price specified is inactive. This field only accepts active prices.", param=param)
    if not price["recurring"]:
        raise ApiError(f"The price specified is not recurring: {price['id']}", param=param)
    fresh = new_item(account, subscription, price, change.get("quantity", 1))
    if item is None:
        return fresh
    kept = {"id": item["id"], "created": item["created"], "metadata": item["metadata"]}
    kept["quantity"] = change.get("quantity", item["quantity"])
    if item["price"]["recurring"] == price["recurring"]:  # only another interval begins a period of its own
        kept |= {name: item[name] for name in ("current_period_start", "current_period_end")}
    return {**fresh, **kept}


def _delete(account: Account, call: Call) -> Object:
    subscription = account.find(Kind.SUBSCRIPTION, call.path["id"])
    cancel(account, subscription)
    return shown(subscription)


def _list(account: Account, call: Call) -> Object:
    status, price = call.params.get("status"), call.params.get("price")
    found = [
        subscription
        for subscription in account.store.newest_first(Kind.SUBSCRIPTION)
        if has_fields(subscription, call.params, "customer")
        and _has_status(subscription, status)
        and (price is None or any(item["price"]["id"] == price for item in subscription["items"]["data"]))
        and created_within(subscription, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/subscriptions")


def _has_status(subscription: Object, wanted: str | None) -> bool:
    """Tell whether a list shows the subscription: without a status Stripe leaves out canceled ones."""
    status: str = subscription["status"]
    match wanted:
        case None:
            return status != "canceled"
        case "all":
            return True
        case "ended":
            return status in ENDED
    return status == wanted


def _list_items(account: Account, call: Call) -> Object:
    if "subscription" not in call.params:
        raise missing_param("subscription")
    found = account.find(Kind.SUBSCRIPTION, call.params["subscription"], param="subscription")
    return page(found["items"]["data"], call.params, "/v1/subscription_items")


ROUTES = (
    Route(
        "GET",
        "/v1/subscription_items",
        _list_items,
        sdk.SubscriptionItemListParams,
        LIST_PARAMS | {"subscription"},
    ),
    Route(
        "GET",
        "/v1/subscriptions",
        _list,
        sdk.SubscriptionListParams,
        LIST_PARAMS | {"created.*", "customer", "price", "status"},
    ),
    Route(
        "GET",
        "/v1/subscriptions/{id}",
        lambda account, call: shown(account.find(Kind.SUBSCRIPTION, call.path["id"])),
        sdk.SubscriptionRetrieveParams,
        takes(),
    ),
    Route(
        "POST",
        "/v1/subscriptions/{id}",
        update,
        sdk.SubscriptionUpdateParams,
        takes(
            "metadata.*",
            "description",
            "billing_cycle_anchor.type",
            "cancel_at",
            "cancel_at_period_end",
            "collection_method",
            "days_until_due",
            "discounts.coupon",
            "trial_end",
            "trial_settings.end_behavior.missing_payment_method",
            "pause_collection",
            "pause_collection.behavior",
            "pause_collection.resumes_at",
            "proration_behavior",
            "payment_behavior",
            "items.id",
            "items.price",
            "items.quantity",
            "items.deleted",
        ),
    ),
    Route("POST", "/v1/subscriptions/{id}/pause", _pause, sdk.SubscriptionPauseParams, takes("type")),
    Route(
        "POST",
        "/v1/subscriptions/{id}/resume",
        _resume,
        sdk.SubscriptionResumeParams,
        takes("billing_cycle_anchor.type", "proration_behavior"),
    ),
    Route("DELETE", "/v1/subscriptions/{id}", _delete, sdk.SubscriptionCancelParams, takes("invoice_now", "prorate")),
)
