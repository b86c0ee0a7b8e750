"""Invoices that are worked out and not made: https://docs.stripe.com/api/invoices/create_preview."""

from __future__ import annotations

import stripe.params as sdk

from sandbox.stripe import invoices, prorations
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import random_text
from sandbox.stripe.invoice_shape import Line
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes
from sandbox.stripe.subscription_endpoints import updated_items
from sandbox.stripe.subscriptions import ENDED


def _preview(account: Account, call: Call) -> Object:
    if "subscription" not in call.params:
        raise missing_param("subscription")
    subscription = account.find(Kind.SUBSCRIPTION, call.params["subscription"], param="subscription")
    if subscription["status"] in ENDED:
        raise ApiError("No upcoming invoices for customer", status=404, code="invoice_upcoming_none")
    details = call.params.get("subscription_details", {})
    items = subscription["items"]["data"]
    if "items" in details:
        items = updated_items(account, subscription, details["items"])["data"]
    at_once = details.get("proration_behavior") == "always_invoice" and call.params.get("preview_mode") != "recurring"
    if at_once:
        invoice = invoices.compose(
            account, subscription, "subscription_update", prorations.changed_lines(account, subscription, items)
        )
    else:
        invoice = invoices.compose(account, subscription, "upcoming", [_period(item) for item in items])
    preview_id = f"upcoming_in_1{random_text(23)}"
    for line in invoice["lines"]["data"]:
        line["invoice"] = preview_id
    return shown({**invoice, "id": preview_id})


def _period(item: Object) -> Line:
    """Give a whole period of an item, the one after that which runs."""
    start = item["current_period_end"]
    length = start - item["current_period_start"]
    return Line(item["price"], item["quantity"], start, start + length, item["id"])


ROUTES = (
    Route(
        "POST",
        "/v1/invoices/create_preview",
        _preview,
        sdk.InvoiceCreatePreviewParams,
        takes(
            "preview_mode",
            "subscription",
            "subscription_details.items.id",
            "subscription_details.items.price",
            "subscription_details.items.quantity",
            "subscription_details.items.deleted",
            "subscription_details.proration_behavior",
        ),
    ),
)
