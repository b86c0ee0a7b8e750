"""Prices, and the lookup keys by which the catalog names them: https://docs.stripe.com/products-prices/manage-prices."""

from __future__ import annotations

import copy

import stripe.params as sdk

from sandbox.stripe import products
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

LOOKUP_KEYS_LIMIT = 10  # as many as Stripe takes in one list call


def create(account: Account, params: Params) -> Object:
    """Make a price of a product. Raises ApiError for a lookup key in use that is not to be transferred."""
    if "currency" not in params:
        raise missing_param("currency")
    if "unit_amount" not in params:
        raise missing_param("unit_amount")
    if params["unit_amount"] < 0:
        raise ApiError("This value must be greater than or equal to 0.", param="unit_amount")
    product_id = _product_id(account, params)
    _free_lookup_key(account, params)
    price = {
        "id": new_id(Kind.PRICE),
        "object": Kind.PRICE.value,
        "active": params.get("active", True),
        "billing_scheme": "per_unit",
        "created": account.time(),
        "currency": params["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": params.get("lookup_key"),
        "metadata": merged_metadata({}, params.get("metadata")),
        "nickname": params.get("nickname"),
        "product": product_id,
        "recurring": _recurring(params),
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if "recurring" in params else "one_time",
        "unit_amount": params["unit_amount"],
        "unit_amount_decimal": str(params["unit_amount"]),
    }
    return account.add(price, event="price.created")


def by_lookup_key(account: Account, lookup_key: str) -> Object | None:
    """Find the one price that holds a lookup key."""
    return next((p for p in account.store.all(Kind.PRICE) if p["lookup_key"] == lookup_key), None)


def _product_id(account: Account, params: Params) -> str:
    if "product_data" in params:
        return str(products.create(account, params["product_data"])["id"])
    if "product" not in params:
        raise missing_param("product")
    return str(account.find(Kind.PRODUCT, params["product"], param="product")["id"])


def _recurring(params: Params) -> Object | None:
    if "recurring" not in params:
        return None
    given = params["recurring"]
    return {
        "interval": given["interval"],
        "interval_count": given.get("interval_count", 1),
        "meter": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }


def _free_lookup_key(account: Account, params: Params, *, keeper: str | None = None) -> None:
    """Take the wanted lookup key off whichever price holds it, if the request says so."""
    lookup_key = params.get("lookup_key")
    holder = by_lookup_key(account, lookup_key) if lookup_key else None
    if holder is None or holder["id"] == keeper:
        return
    if not params.get("transfer_lookup_key"):
        raise ApiError(f"A price (`{holder['id']}`) already uses that lookup key.", param="lookup_key")
    account.change(holder, {"lookup_key": None}, event="price.updated")
    _refresh_subscriptions(account, holder)


def _update(account: Account, call: Call) -> Object:
    price = account.find(Kind.PRICE, call.path["id"])
    _free_lookup_key(account, call.params, keeper=price["id"])
    changes: Object = {"metadata": merged_metadata(price["metadata"], call.params.get("metadata"))}
    changes |= {name: call.params[name] or None for name in ("lookup_key", "nickname") if name in call.params}
    changes |= {"active": call.params["active"]} if "active" in call.params else {}
    account.change(price, changes, event="price.updated")
    _refresh_subscriptions(account, price)
    return shown(price)


def _refresh_subscriptions(account: Account, price: Object) -> None:
    """Show the price as it is now inside the subscriptions that are on it; Stripe sends no event for that."""
    for subscription in account.store.all(Kind.SUBSCRIPTION):
        held = [item for item in subscription["items"]["data"] if item["price"]["id"] == price["id"]]
        for item in held:
            item["price"] = copy.deepcopy(price)
        if held:
            account.store.put(Kind.SUBSCRIPTION, subscription["id"], subscription)


def _list(account: Account, call: Call) -> Object:
    keys = set(call.params.get("lookup_keys", ()))
    if len(keys) > LOOKUP_KEYS_LIMIT:
        raise ApiError(f"You may only specify up to {LOOKUP_KEYS_LIMIT} lookup keys.", param="lookup_keys")
    found = [
        price
        for price in account.store.newest_first(Kind.PRICE)
        if has_fields(price, call.params, "active", "currency", "product", "type")
        and created_within(price, call.params.get("created"))
        and (not keys or price["lookup_key"] in keys)
    ]
    return page(found, call.params, "/v1/prices")


_UPDATABLE = takes("active", "lookup_key", "transfer_lookup_key", "nickname", "metadata.*")
_CREATABLE = _UPDATABLE | {
    "currency",
    "unit_amount",
    "product",
    "product_data.name",
    "product_data.id",
    "product_data.metadata.*",
    "recurring.interval",
    "recurring.interval_count",
}

ROUTES = (
    Route(
        "POST",
        "/v1/prices",
        lambda account, call: shown(create(account, call.params)),
        sdk.PriceCreateParams,
        _CREATABLE,
    ),
    Route(
        "GET",
        "/v1/prices",
        _list,
        sdk.PriceListParams,
        LIST_PARAMS | {"active", "created.*", "currency", "lookup_keys", "product", "type"},
    ),
    Route(
        "GET",
        "/v1/prices/{id}",
        lambda account, call: shown(account.find(Kind.PRICE, call.path["id"])),
        sdk.PriceRetrieveParams,
        takes(),
    ),
    Route("POST", "/v1/prices/{id}", _update, sdk.PriceUpdateParams, _UPDATABLE),
)
