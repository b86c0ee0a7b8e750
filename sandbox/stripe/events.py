"""The log of events, as the API lists it: 30 days back, by type, time and delivery."""

from __future__ import annotations

from fnmatch import fnmatchcase

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.pagination import LIST_PARAMS, created_within, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

TYPES_LIMIT = 20
KEPT_S = 30 * 24 * 3600


def forget_old(account: Account) -> None:
    """Drop the events that Stripe no longer lists, but for those that are still on their way."""
    oldest = account.time() - KEPT_S
    for event in account.store.all(Kind.EVENT):
        if event["created"] >= oldest:
            break  # they stand in the order of their making
        if _status(account, event) != "pending":
            account.store.delete(Kind.EVENT, event["id"])
            account.store.delete(Kind.DELIVERY, event["id"])


def _retrieve(account: Account, call: Call) -> Object:
    return _with_pending(account, shown(account.find(Kind.EVENT, call.path["id"])))


def _list(account: Account, call: Call) -> Object:
    params = call.params
    if "type" in params and "types" in params:
        raise ApiError("You may only specify one of these parameters: type, types.", param="types")
    types = params.get("types", [params["type"]] if "type" in params else ["*"])
    if len(types) > TYPES_LIMIT:
        raise ApiError(f"You may only specify up to {TYPES_LIMIT} types.", param="types")
    oldest = account.time() - KEPT_S
    found = [
        event
        for event in account.store.newest_first(Kind.EVENT)
        if event["created"] >= oldest
        and created_within(event, params.get("created"))
        and any(fnmatchcase(event["type"], pattern) for pattern in types)
        and params.get("delivery_success") in {None, _delivered(account, event)}
    ]
    listed = page(found, params, "/v1/events")
    listed["data"] = [_with_pending(account, event) for event in listed["data"]]
    return listed


def _status(account: Account, event: Object) -> str | None:
    delivery = account.store.get(Kind.DELIVERY, event["id"])
    return delivery["status"] if delivery else None


def _delivered(account: Account, event: Object) -> bool:
    """Tell whether every webhook was delivered; an event that nobody was to get counts as delivered."""
    return _status(account, event) in {None, "succeeded"}


def _with_pending(account: Account, event: Object) -> Object:
    return {**event, "pending_webhooks": int(_status(account, event) == "pending")}


ROUTES = (
    Route(
        "GET",
        "/v1/events",
        _list,
        sdk.EventListParams,
        LIST_PARAMS | {"created.*", "delivery_success", "type", "types"},
    ),
    Route("GET", "/v1/events/{id}", _retrieve, sdk.EventRetrieveParams, takes()),
)
