"""Disputes: https://docs.stripe.com/disputes/how-disputes-work. Inquiries ("warnings") move no money until they become one."""

from __future__ import annotations

from enum import StrEnum

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes


class DisputeStatus(StrEnum):
    """Stripe's states of a dispute."""

    WARNING_NEEDS_RESPONSE = "warning_needs_response"
    WARNING_UNDER_REVIEW = "warning_under_review"
    WARNING_CLOSED = "warning_closed"
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    WON = "won"
    LOST = "lost"
    APPEAL_NEEDS_RESPONSE = "appeal_needs_response"
    APPEAL_UNDER_REVIEW = "appeal_under_review"


_S = DisputeStatus
_CLOSED = frozenset({_S.WARNING_CLOSED, _S.WON, _S.LOST})
_NEXT = {
    _S.WARNING_NEEDS_RESPONSE: {_S.WARNING_UNDER_REVIEW, _S.WARNING_CLOSED, _S.NEEDS_RESPONSE},
    _S.WARNING_UNDER_REVIEW: {_S.WARNING_CLOSED, _S.NEEDS_RESPONSE},
    _S.NEEDS_RESPONSE: {_S.UNDER_REVIEW, _S.WON, _S.LOST},
    _S.UNDER_REVIEW: {_S.WON, _S.LOST},
    _S.LOST: {_S.APPEAL_NEEDS_RESPONSE, _S.APPEAL_UNDER_REVIEW},
    _S.APPEAL_NEEDS_RESPONSE: {_S.APPEAL_UNDER_REVIEW, _S.LOST},
    _S.APPEAL_UNDER_REVIEW: {_S.WON, _S.LOST},
}


def create(account: Account, payment_intent_id: str, *, warning: bool = False, amount: int | None = None) -> Object:
    """Have the payer dispute a payment, wholly or `amount` minor units of it. Raises ApiError where none arrived."""
    intent = account.find(Kind.PAYMENT_INTENT, payment_intent_id, param="payment_intent")
    if intent["status"] != "succeeded":
        raise ApiError("Only a payment that arrived can be disputed.", param="payment_intent")
    charge = account.find(Kind.CHARGE, intent["latest_charge"], param="payment_intent")
    if charge["disputed"]:
        raise ApiError(f"Charge {charge['id']} is disputed already.", param="payment_intent")
    account.change(charge, {"disputed": True})
    status = _S.WARNING_NEEDS_RESPONSE if warning else _S.NEEDS_RESPONSE
    dispute = account.add(_shape(account, charge, status, amount or charge["amount"]), event="charge.dispute.created")
    if not warning:
        account.publish("charge.dispute.funds_withdrawn", dispute)
    return dispute


def move(account: Account, dispute: Object, status: DisputeStatus) -> None:
    """Bring a dispute to its next state. Raises ApiError where Stripe knows no such step."""
    before = DisputeStatus(dispute["status"])
    if status not in _NEXT.get(before, set()):
        raise ApiError(f"A dispute that is {before} does not become {status}.", param="status")
    event = "charge.dispute.closed" if status in _CLOSED else "charge.dispute.updated"
    account.change(dispute, {"status": status.value}, event=event)
    if status is _S.WON:
        account.publish("charge.dispute.funds_reinstated", dispute)
    elif status is _S.NEEDS_RESPONSE:
        account.publish("charge.dispute.funds_withdrawn", dispute)


def _shape(account: Account, charge: Object, status: DisputeStatus, amount: int) -> Object:
    return {
        "id": new_id(Kind.DISPUTE),
        "object": Kind.DISPUTE.value,
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": account.time(),
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {"due_by": None, "has_evidence": False, "past_due": False, "submission_count": 0},
        "is_charge_refundable": status is _S.WARNING_NEEDS_RESPONSE,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "reason": "fraudulent",
        "status": status.value,
    }


def _list(account: Account, call: Call) -> Object:
    found = [
        dispute
        for dispute in account.store.newest_first(Kind.DISPUTE)
        if has_fields(dispute, call.params, "charge", "payment_intent")
        and created_within(dispute, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/disputes")


ROUTES = (
    Route("GET", "/v1/disputes", _list, sdk.DisputeListParams, LIST_PARAMS | {"charge", "created.*", "payment_intent"}),
    Route(
        "GET",
        "/v1/disputes/{id}",
        lambda account, call: shown(account.find(Kind.DISPUTE, call.path["id"])),
        sdk.DisputeRetrieveParams,
        takes(),
    ),
)
