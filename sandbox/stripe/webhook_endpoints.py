"""Webhook endpoints that are made through the API: https://docs.stripe.com/api/webhook_endpoints.

One gets what happens after it was made; where the stand-in was started with an endpoint, that one gets everything.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id, random_text
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

ENDPOINTS_LIMIT = 16  # of an account: https://docs.stripe.com/webhooks#register-webhook
EVERY_TYPE = "*"


def listener(account: Account, event_type: str) -> tuple[str, str] | None:
    """Give the URL and secret of the oldest endpoint that is to get events of a type, or None."""
    for endpoint in account.store.all(Kind.WEBHOOK_ENDPOINT):
        if endpoint["status"] == "enabled" and {event_type, EVERY_TYPE} & set(endpoint["enabled_events"]):
            return endpoint["url"], endpoint["_secret"]
    return None


def _create(account: Account, call: Call) -> Object:
    params = call.params
    for name in ("url", "enabled_events"):
        if name not in params:
            raise missing_param(name)
    _check_url(params)
    if len(account.store.all(Kind.WEBHOOK_ENDPOINT)) >= ENDPOINTS_LIMIT:
        raise ApiError(f"You have reached the maximum of {ENDPOINTS_LIMIT} webhook endpoints.")
    secret = f"whsec_{random_text(32)}"
    endpoint = {
        "id": new_id(Kind.WEBHOOK_ENDPOINT),
        "object": Kind.WEBHOOK_ENDPOINT.value,
        "api_version": params.get("api_version"),
        "application": None,
        "created": account.time(),
        "description": params.get("description") or None,
        "enabled_events": list(params["enabled_events"]),
        "livemode": False,
        "metadata": merged_metadata({}, params.get("metadata")),
        "status": "enabled",
        "url": params["url"],
        "_secret": secret,
    }
    return {**shown(account.add(endpoint)), "secret": secret}  # this once


def _check_url(params: Params) -> None:
    parts = urlsplit(params.get("url", "https://stand-in.example"))
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ApiError("Invalid URL: An explicit scheme (such as https) must be provided.", param="url")


def _update(account: Account, call: Call) -> Object:
    endpoint = account.find(Kind.WEBHOOK_ENDPOINT, call.path["id"])
    _check_url(call.params)
    changes: Object = {"metadata": merged_metadata(endpoint["metadata"], call.params.get("metadata"))}
    changes |= {name: call.params[name] for name in ("url", "enabled_events", "description") if name in call.params}
    if "disabled" in call.params:
        changes["status"] = "disabled" if call.params["disabled"] else "enabled"
    account.change(endpoint, changes)
    return shown(endpoint)


def _delete(account: Account, call: Call) -> Object:
    endpoint = account.find(Kind.WEBHOOK_ENDPOINT, call.path["id"])
    account.store.delete(Kind.WEBHOOK_ENDPOINT, endpoint["id"])
    return {"id": endpoint["id"], "object": Kind.WEBHOOK_ENDPOINT.value, "deleted": True}


_SETTABLE = takes("url", "enabled_events", "description", "metadata.*")

ROUTES = (
    Route("POST", "/v1/webhook_endpoints", _create, sdk.WebhookEndpointCreateParams, _SETTABLE | {"api_version"}),
    Route(
        "GET",
        "/v1/webhook_endpoints",
        lambda account, call: page(
            account.store.newest_first(Kind.WEBHOOK_ENDPOINT), call.params, "/v1/webhook_endpoints"
        ),
        sdk.WebhookEndpointListParams,
        LIST_PARAMS,
    ),
    Route(
        "GET",
        "/v1/webhook_endpoints/{id}",
        lambda account, call: shown(account.find(Kind.WEBHOOK_ENDPOINT, call.path["id"])),
        sdk.WebhookEndpointRetrieveParams,
        takes(),
    ),
    Route("POST", "/v1/webhook_endpoints/{id}", _update, sdk.WebhookEndpointUpdateParams, _SETTABLE | {"disabled"}),
    Route("DELETE", "/v1/webhook_endpoints/{id}", _delete, sdk.WebhookEndpointDeleteParams, takes()),
)
