"""Products."""

from __future__ import annotations

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

_SETTABLE = ("name", "description", "active", "url", "statement_descriptor", "unit_label")


def create(account: Account, params: Params) -> Object:
    """Make a product; the caller may choose its id, as at Stripe. Raises ApiError when that id is taken."""
    if "name" not in params:
        raise missing_param("name")
    product_id = params.get("id") or new_id(Kind.PRODUCT)
    if account.store.get(Kind.PRODUCT, product_id):
        raise ApiError("Product already exists.", code="resource_already_exists", param="id")
    product = {
        "id": product_id,
        "object": Kind.PRODUCT.value,
        "active": True,
        "created": account.time(),
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": merged_metadata({}, params.get("metadata")),
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": account.time(),
        "url": None,
        **{name: params[name] for name in _SETTABLE if name in params},
    }
    return account.add(product, event="product.created")


def _update(account: Account, call: Call) -> Object:
    product = account.find(Kind.PRODUCT, call.path["id"])
    changes = {name: call.params[name] or None for name in _SETTABLE if name in call.params}
    if "active" in call.params:
        changes["active"] = call.params["active"]
    changes["metadata"] = merged_metadata(product["metadata"], call.params.get("metadata"))
    account.change(product, {**changes, "updated": account.time()}, event="product.updated")
    return shown(product)


def _list(account: Account, call: Call) -> Object:
    wanted = set(call.params.get("ids", ()))
    found = [
        product
        for product in account.store.newest_first(Kind.PRODUCT)
        if has_fields(product, call.params, "active")
        and created_within(product, call.params.get("created"))
        and (not wanted or product["id"] in wanted)
    ]
    return page(found, call.params, "/v1/products")


_UPDATABLE = takes(*_SETTABLE, "metadata.*")

ROUTES = (
    Route(
        "POST",
        "/v1/products",
        lambda account, call: shown(create(account, call.params)),
        sdk.ProductCreateParams,
        _UPDATABLE | {"id"},
    ),
    Route("GET", "/v1/products", _list, sdk.ProductListParams, LIST_PARAMS | {"active", "created.*", "ids"}),
    Route(
        "GET",
        "/v1/products/{id}",
        lambda account, call: shown(account.find(Kind.PRODUCT, call.path["id"])),
        sdk.ProductRetrieveParams,
        takes(),
    ),
    Route("POST", "/v1/products/{id}", _update, sdk.ProductUpdateParams, _UPDATABLE),
)
