"""How objects are shown: private notes left out, ids replaced by their objects where a request expands them.

https://docs.stripe.com/api/expanding_objects
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sandbox.stripe.errors import ApiError
from sandbox.stripe.identifiers import kind_of
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.store import Store

DEPTH_LIMIT = 4
LISTED = 10  # of a list within an object

# Fields that hold an id and may be expanded into its object.
_EXPANDABLE: Mapping[str, frozenset[str]] = {
    Kind.PRODUCT: frozenset({"default_price"}),
    Kind.PRICE: frozenset({"product"}),
    Kind.CHECKOUT_SESSION: frozenset({"customer", "invoice", "payment_intent", "subscription"}),
    Kind.SUBSCRIPTION: frozenset({"customer", "latest_invoice"}),
    Kind.INVOICE: frozenset({"customer"}),
    Kind.INVOICE_PAYMENT: frozenset({"invoice"}),
    Kind.PAYMENT_INTENT: frozenset({"customer", "latest_charge"}),
    Kind.CHARGE: frozenset({"customer", "payment_intent"}),
    Kind.REFUND: frozenset({"charge", "payment_intent"}),
    Kind.DISPUTE: frozenset({"charge", "payment_intent"}),
    "payment": frozenset({"payment_intent"}),  # invoice_payment.payment, which has no `object` of its own
    "subscription_details": frozenset({"subscription"}),  # invoice.parent.subscription_details
}


def shown(obj: Object, *, whole: bool = False) -> Object:
    """Copy an object without the stand-in's own notes; unless `whole`, with ten of a subscription's items, as Stripe shows a list."""
    copy = {key: copied(value) for key, value in obj.items() if not key.startswith("_")}
    if not whole and obj.get("object") == Kind.SUBSCRIPTION and len(copy["items"]["data"]) > LISTED:
        copy["items"] |= {"data": copy["items"]["data"][:LISTED], "has_more": True}
    return copy


def copied(value: Any) -> Any:
    """Copy JSON. `copy.deepcopy` takes three times as long, being made for whatever there is; each answer and event is copied whole."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value


def _line_items(session: Object, _: Store) -> Object:
    return {
        "object": "list",
        "data": copied(session["_line_items"]),
        "has_more": False,
        "url": f"/v1/checkout/sessions/{session['id']}/line_items",
    }


def _payments(invoice: Object, store: Store) -> Object:
    payments = [shown(p) for p in store.newest_first(Kind.INVOICE_PAYMENT) if p["invoice"] == invoice["id"]]
    return {"object": "list", "data": payments, "has_more": False, "url": "/v1/invoice_payments"}


# Fields that are there only when a request asks for them.
_INCLUDABLE: Mapping[tuple[str, str], Callable[[Object, Store], Object]] = {
    (Kind.CHECKOUT_SESSION, "line_items"): _line_items,
    (Kind.INVOICE, "payments"): _payments,
}


def expand(obj: Object, paths: Sequence[str], store: Store) -> Object:
    """Replace what `paths` name ("latest_invoice.payments", on a list "data.customer"); `obj` is a copy already.

    Raises ApiError for a path that leads nowhere or is deeper than four levels.
    """
    for path in paths:
        steps = path.split(".")
        if len(steps) > DEPTH_LIMIT + (obj.get("object") == "list"):
            raise ApiError(
                f"You cannot expand more than {DEPTH_LIMIT} levels of a property. Property: {path}", param="expand"
            )
        _expand(obj, str(obj.get("object", "")), steps, path, store)
    return obj


def _expand(node: Object, noun: str, steps: list[str], path: str, store: Store) -> None:
    step, below = steps[0], steps[1:]
    include = _INCLUDABLE.get((noun, step))
    if include and step not in node:
        source = store.get(Kind(noun), node["id"])
        node[step] = include(source or node, store)
    if step not in node or (not below and step not in _EXPANDABLE.get(noun, ()) and not include):
        raise ApiError(f"This property cannot be expanded ({path}).", param="expand")
    value = node[step]
    if isinstance(value, str) and step in _EXPANDABLE.get(noun, ()):
        value = node[step] = _object(value, store)
    if below:
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, dict):
                _expand(child, str(child.get("object", step)), below, path, store)


def _object(object_id: str, store: Store) -> Object | str:
    kind = kind_of(object_id)
    found = store.get(kind, object_id) if kind else None
    return shown(found) if found else object_id
