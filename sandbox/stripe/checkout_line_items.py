"""What a checkout session sells: prices and quantities, checked against the session's mode."""

from __future__ import annotations

import copy

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, Params

LINE_ITEMS_LIMIT = 100


def create(account: Account, params: Params, mode: str) -> list[Object]:
    """Make the line items that a session's parameters ask for. Raises ApiError for what Stripe does not sell so."""
    given = params.get("line_items", [])
    if not given:
        raise missing_param("line_items")
    if len(given) > LINE_ITEMS_LIMIT:
        raise ApiError(f"You may only specify up to {LINE_ITEMS_LIMIT} line items.", param="line_items")
    items = [_line_item(account, item, f"line_items[{index}]") for index, item in enumerate(given)]
    recurring = [bool(item["price"]["recurring"]) for item in items]
    if mode == "payment" and any(recurring):
        raise ApiError(
            "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or use only one-time prices.",
            param="mode",
        )
    if mode == "subscription" and not any(recurring):
        raise ApiError(
            "You must provide at least one recurring price in `subscription` mode when using prices.", param="mode"
        )
    if len({item["currency"] for item in items}) > 1:
        raise ApiError("All prices on a Checkout Session must have the same currency.", param="line_items")
    return items


def _line_item(account: Account, given: Object, param: str) -> Object:
    if "price" not in given:
        raise missing_param(f"{param}[price]")
    if "quantity" not in given:
        raise missing_param(f"{param}[quantity]")
    price = account.find(Kind.PRICE, given["price"], param=f"{param}[price]")
    if not price["active"]:
        raise ApiError(
            "The price specified is inactive. This field only accepts active prices.", param=f"{param}[price]"
        )
    quantity = given["quantity"]
    if quantity < 1:
        raise ApiError(
            "This value must be greater than or equal to 1.",
            code="parameter_invalid_integer",
            param=f"{param}[quantity]",
        )
    amount = price["unit_amount"] * quantity
    return {
        "id": new_id(Kind.LINE_ITEM),
        "object": Kind.LINE_ITEM.value,
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": account.find(Kind.PRODUCT, price["product"])["name"],
        "metadata": {},
        "price": copy.deepcopy(price),
        "quantity": quantity,
    }
