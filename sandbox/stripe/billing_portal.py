"""The customer portal's configurations and sessions: https://docs.stripe.com/api/customer_portal. Its page: `portal_page`."""

from __future__ import annotations

import copy
from typing import Any
from urllib.parse import urlsplit

import stripe.params.billing_portal as sdk

from sandbox.stripe import customers
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id, random_text
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes
from sandbox.stripe.subscriptions import ENDED

PRODUCTS_LIMIT = 10  # Stripe's own

_OFF: Object = {
    "customer_update": {"allowed_updates": [], "enabled": False},
    "invoice_history": {"enabled": False},
    "payment_method_update": {"enabled": False, "payment_method_configuration": None},
    "subscription_cancel": {
        "cancellation_reason": {"enabled": False, "options": []},
        "enabled": False,
        "mode": "at_period_end",
        "proration_behavior": "none",
    },
    "subscription_update": {
        "billing_cycle_anchor": None,
        "default_allowed_updates": [],
        "enabled": False,
        "products": [],
        "proration_behavior": "none",
        "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "end_trial",
    },
}
_OF_SUBSCRIPTION = ("subscription_cancel", "subscription_update")


def _create_configuration(account: Account, call: Call) -> Object:
    params = call.params
    if "features" not in params:
        raise missing_param("features")
    configuration = {
        "id": new_id(Kind.PORTAL_CONFIGURATION),
        "object": Kind.PORTAL_CONFIGURATION.value,
        "active": True,
        "application": None,
        "business_profile": {"headline": None, "privacy_policy_url": None, "terms_of_service_url": None},
        "created": account.time(),
        "default_return_url": None,
        "features": _features(account, params["features"]),
        "is_default": False,
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": merged_metadata({}, params.get("metadata")),
        "name": params.get("name") or None,
        "updated": account.time(),
    }
    return shown(account.add(configuration, event="billing_portal.configuration.created"))


def _features(account: Account, given: Params) -> Object:
    features = copy.deepcopy(_OFF)
    for name, feature in given.items():
        features[name] |= feature
    update = features["subscription_update"]
    if update["enabled"] and not (update["products"] and update["default_allowed_updates"]):
        raise missing_param("features[subscription_update][products]")
    if len(update["products"]) > PRODUCTS_LIMIT:
        param = "features[subscription_update][products]"
        raise ApiError(f"You may only specify up to {PRODUCTS_LIMIT} products.", param=param)
    for index, product in enumerate(update["products"]):
        _check_product(account, product, f"features[subscription_update][products][{index}]")
    return features


def _check_product(account: Account, product: Params, param: str) -> None:
    account.find(Kind.PRODUCT, product["product"], param=f"{param}[product]")
    for number, price_id in enumerate(product["prices"]):
        price = account.find(Kind.PRICE, price_id, param=f"{param}[prices][{number}]")
        if price["product"] != product["product"] or not price["recurring"]:
            text = f"The price {price_id} is not a recurring price of the product {product['product']}."
            raise ApiError(text, param=f"{param}[prices][{number}]")


def _update_configuration(account: Account, call: Call) -> Object:
    configuration = account.find(Kind.PORTAL_CONFIGURATION, call.path["id"])
    changes: Object = {"metadata": merged_metadata(configuration["metadata"], call.params.get("metadata"))}
    changes |= {"active": call.params["active"]} if "active" in call.params else {}
    account.change(configuration, changes, event="billing_portal.configuration.updated")
    return shown(configuration)


def _list_configurations(account: Account, call: Call) -> Object:
    found = [
        configuration
        for configuration in account.store.newest_first(Kind.PORTAL_CONFIGURATION)
        if has_fields(configuration, call.params, "active", "is_default")
    ]
    return page(found, call.params, "/v1/billing_portal/configurations")


def _create_session(account: Account, call: Call) -> Object:
    params = call.params
    for name in ("customer", "configuration"):
        if name not in params:
            raise missing_param(name)
    customer = customers.find_live(account, params["customer"], param="customer")
    configuration = account.find(Kind.PORTAL_CONFIGURATION, params["configuration"], param="configuration")
    if not configuration["active"]:
        raise ApiError("The portal configuration is not active.", param="configuration")
    return_url = params.get("return_url")
    parts = urlsplit(return_url or "https://stand-in.example")
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ApiError("Not a valid URL", code="url_invalid", param="return_url")
    secret = f"test_{random_text(40)}"
    session = {
        "id": new_id(Kind.PORTAL_SESSION),
        "object": Kind.PORTAL_SESSION.value,
        "configuration": configuration["id"],
        "created": account.time(),
        "customer": customer["id"],
        "customer_account": None,
        "flow": _flow(account, params.get("flow_data"), customer, configuration),
        "livemode": False,
        "locale": None,
        "on_behalf_of": None,
        "return_url": return_url,
        "url": f"{account.base_url}/portal/{secret}",
        "_secret": secret,
    }
    return shown(account.add(session, event="billing_portal.session.created"))


def _flow(account: Account, given: Params | None, customer: Object, configuration: Object) -> Object | None:
    """Read the page that a person finds first. Raises ApiError for what the configuration does not have, or is not theirs."""
    if given is None:
        return None
    kind: str = given["type"]
    if not configuration["features"].get(kind, {"enabled": True})["enabled"]:
        text = f"The portal configuration has {kind} disabled; this flow needs it."
        raise ApiError(text, param="flow_data[type]")
    for name in _OF_SUBSCRIPTION:
        if (name == kind) != (name in given):
            raise missing_param(f"flow_data[{kind}]")
    if kind in _OF_SUBSCRIPTION:
        param = f"flow_data[{kind}][subscription]"
        subscription = account.find(Kind.SUBSCRIPTION, given[kind]["subscription"], param=param)
        if subscription["customer"] != customer["id"] or subscription["status"] in ENDED:
            raise ApiError("The subscription is not a live one of this customer.", param=param)
    flow: dict[str, Any] = {"after_completion": {"type": "portal_homepage"}, **dict.fromkeys(_OF_SUBSCRIPTION)}
    return {**flow, "subscription_update_confirm": None, **given}


_CREATABLE = takes("features.*", "metadata.*", "name")

ROUTES = (
    Route(
        "POST",
        "/v1/billing_portal/configurations",
        _create_configuration,
        sdk.ConfigurationCreateParams,
        _CREATABLE,
    ),
    Route(
        "GET",
        "/v1/billing_portal/configurations",
        _list_configurations,
        sdk.ConfigurationListParams,
        LIST_PARAMS | {"active", "is_default"},
    ),
    Route(
        "GET",
        "/v1/billing_portal/configurations/{id}",
        lambda account, call: shown(account.find(Kind.PORTAL_CONFIGURATION, call.path["id"])),
        sdk.ConfigurationRetrieveParams,
        takes(),
    ),
    Route(
        "POST",
        "/v1/billing_portal/configurations/{id}",
        _update_configuration,
        sdk.ConfigurationUpdateParams,
        takes("active", "metadata.*"),
    ),
    Route(
        "POST",
        "/v1/billing_portal/sessions",
        _create_session,
        sdk.SessionCreateParams,
        takes(
            "configuration",
            "customer",
            "return_url",
            "flow_data.type",
            "flow_data.after_completion.*",
            "flow_data.subscription_cancel.subscription",
            "flow_data.subscription_update.subscription",
        ),
    ),
)
