"""Refunds."""

from __future__ import annotations

from enum import StrEnum

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param, resource_missing
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes


class RefundEnd(StrEnum):
    """How a refund ends, perhaps days after it seemed to have succeeded."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


def create(account: Account, params: Params, *, pending: bool = False) -> Object:
    """Give back all that is left of a payment, or `amount` minor units of it; `pending` while the bank takes its time.

    Raises ApiError when nothing is left, too little is left, or the payment never arrived.
    """
    charge = _charge(account, params)
    left = charge["amount"] - charge["amount_refunded"]
    if left == 0:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = params.get("amount", left)
    if amount < 1:
        raise ApiError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount > left:
        raise ApiError(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount")
    refund = account.add(
        _refund(account, charge, amount, params, "pending" if pending else "succeeded"), event="refund.created"
    )
    refunded = charge["amount_refunded"] + amount
    changes = {"amount_refunded": refunded, "refunded": refunded == charge["amount"]}
    account.change(charge, changes, event="charge.refunded")
    return refund


def end(account: Account, refund: Object, how: RefundEnd) -> None:
    """Have a refund end so; one that succeeded can still fail, and then the money was never given back.

    Raises ApiError for what no refund does. https://docs.stripe.com/refunds#failed-refunds
    """
    allowed = {"pending": set(RefundEnd), "succeeded": {RefundEnd.FAILED}}
    if how not in allowed.get(refund["status"], set()):
        raise ApiError(f"A refund that is {refund['status']} does not become {how}.")
    if how is RefundEnd.SUCCEEDED:
        account.change(refund, {"status": "succeeded"}, event="refund.updated")
        account.publish("charge.refund.updated", refund)
        return
    charge = account.find(Kind.CHARGE, refund["charge"])
    account.change(charge, {"amount_refunded": charge["amount_refunded"] - refund["amount"], "refunded": False})
    changes = {"status": how.value, "failure_reason": "declined" if how is RefundEnd.FAILED else None}
    account.change(refund, changes, event="refund.failed" if how is RefundEnd.FAILED else "refund.updated")
    account.publish("charge.refund.updated", refund)


def _charge(account: Account, params: Params) -> Object:
    if "charge" in params:
        named = account.find(Kind.CHARGE, params["charge"], param="charge")
        if not named["paid"]:
            raise ApiError(f"Charge {named['id']} failed; there is nothing to refund.", param="charge")
        return named
    if "payment_intent" not in params:
        raise missing_param("payment_intent")
    intent = account.find(Kind.PAYMENT_INTENT, params["payment_intent"], param="payment_intent")
    if intent["status"] != "succeeded":
        raise ApiError(
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
            code="payment_intent_unexpected_state",
            param="payment_intent",
        )
    charge = account.store.get(Kind.CHARGE, intent["latest_charge"])
    if charge is None:
        raise resource_missing(Kind.CHARGE, intent["latest_charge"], param="payment_intent")
    return charge


def _refund(account: Account, charge: Object, amount: int, params: Params, status: str) -> Object:
    return {
        "id": new_id(Kind.REFUND),
        "object": Kind.REFUND.value,
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": account.time(),
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": merged_metadata({}, params.get("metadata")),
        "payment_intent": charge["payment_intent"],
        "payment_method": None,
        "reason": params.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": status,
        "transfer_reversal": None,
    }


def _list(account: Account, call: Call) -> Object:
    found = [
        refund
        for refund in account.store.newest_first(Kind.REFUND)
        if has_fields(refund, call.params, "charge", "payment_intent")
        and created_within(refund, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/refunds")


ROUTES = (
    Route(
        "POST",
        "/v1/refunds",
        lambda account, call: shown(create(account, call.params)),
        sdk.RefundCreateParams,
        takes("payment_intent", "charge", "amount", "reason", "metadata.*"),
    ),
    Route("GET", "/v1/refunds", _list, sdk.RefundListParams, LIST_PARAMS | {"charge", "created.*", "payment_intent"}),
    Route(
        "GET",
        "/v1/refunds/{id}",
        lambda account, call: shown(account.find(Kind.REFUND, call.path["id"])),
        sdk.RefundRetrieveParams,
        takes(),
    ),
)
