"""Customers."""

from __future__ import annotations

import stripe.params as sdk

from sandbox.stripe import subscriptions
from sandbox.stripe.account import Account
from sandbox.stripe.errors import resource_missing
from sandbox.stripe.identifiers import new_id, random_text
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

_SETTABLE = ("email", "name", "phone", "description", "address", "shipping")


def create(account: Account, params: Params) -> Object:
    """Make a customer; nothing about one has to be unique, e-mail addresses neither."""
    customer = {
        "id": new_id(Kind.CUSTOMER),
        "object": Kind.CUSTOMER.value,
        "address": None,
        "balance": 0,
        "created": account.time(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": random_text(8).upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": merged_metadata({}, params.get("metadata")),
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": params.get("preferred_locales", []),
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
        **{name: params[name] or None for name in _SETTABLE if name in params},
    }
    return account.add(customer, event="customer.created")


def find_live(account: Account, customer_id: str, *, param: str = "id") -> Object:
    """Look up a customer that is not deleted. Raises resource_missing."""
    customer = account.find(Kind.CUSTOMER, customer_id, param=param)
    if customer.get("deleted"):
        raise resource_missing(Kind.CUSTOMER, customer_id, param=param, status=404 if param == "id" else 400)
    return customer


def _retrieve(account: Account, call: Call) -> Object:
    customer = account.find(Kind.CUSTOMER, call.path["id"])
    return _tombstone(customer) if customer.get("deleted") else shown(customer)


def _update(account: Account, call: Call) -> Object:
    customer = find_live(account, call.path["id"])
    changes = {name: call.params[name] or None for name in _SETTABLE if name in call.params}
    changes["metadata"] = merged_metadata(customer["metadata"], call.params.get("metadata"))
    if "preferred_locales" in call.params:
        changes["preferred_locales"] = call.params["preferred_locales"]
    account.change(customer, changes, event="customer.updated")
    return shown(customer)


def _delete(account: Account, call: Call) -> Object:
    """Delete for good; the customer's live subscriptions end at once, as at Stripe."""
    customer = find_live(account, call.path["id"])
    for subscription in account.store.all(Kind.SUBSCRIPTION):
        if subscription["customer"] == customer["id"] and subscription["status"] not in subscriptions.ENDED:
            subscriptions.cancel(account, subscription)
    account.publish("customer.deleted", customer)
    account.change(customer, {"deleted": True})
    return _tombstone(customer)


def _tombstone(customer: Object) -> Object:
    return {"id": customer["id"], "object": Kind.CUSTOMER.value, "deleted": True}


def _list(account: Account, call: Call) -> Object:
    found = [
        customer
        for customer in account.store.newest_first(Kind.CUSTOMER)
        if not customer.get("deleted")
        and has_fields(customer, call.params, "email")
        and created_within(customer, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/customers")


_TAKEN = takes(*_SETTABLE, "address.*", "shipping.*", "metadata.*", "preferred_locales")

ROUTES = (
    Route(
        "POST",
        "/v1/customers",
        lambda account, call: shown(create(account, call.params)),
        sdk.CustomerCreateParams,
        _TAKEN,
    ),
    Route("GET", "/v1/customers", _list, sdk.CustomerListParams, LIST_PARAMS | {"created.*", "email"}),
    Route("GET", "/v1/customers/{id}", _retrieve, sdk.CustomerRetrieveParams, takes()),
    Route("POST", "/v1/customers/{id}", _update, sdk.CustomerUpdateParams, _TAKEN),
    Route("DELETE", "/v1/customers/{id}", _delete, sdk.CustomerDeleteParams),
)
