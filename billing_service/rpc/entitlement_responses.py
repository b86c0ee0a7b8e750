"""Answers about entitlements that `responses` does not have: one feature, many customers, a purchase that was waited for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from billing.v1 import entitlement_pb2

from billing_service.domain.check import Check, CheckReason
from billing_service.domain.checkout_outcome import CheckoutOutcome
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.errors import FieldViolation, InvalidFieldsError
from billing_service.rpc.entitlement_wire import entitlements_wire, feature_value
from billing_service.rpc.responses import get_entitlements_response, source_message, timestamp
from billing_service.rpc.server import MAX_MESSAGE_BYTES

_TOO_MUCH: Final = (
    "the answer has {size} bytes, of which a message may have {most}: ask for about {few} customers at a time, "
    "or for the features that you need (feature_keys)"
)
_CheckMessage = entitlement_pb2.CheckEntitlementResponse

OUTCOMES: Final[Mapping[CheckoutOutcome, entitlement_pb2.CheckoutOutcome.ValueType]] = {
    CheckoutOutcome.ENTITLED: entitlement_pb2.CHECKOUT_OUTCOME_ENTITLED,
    CheckoutOutcome.PENDING_PAYMENT: entitlement_pb2.CHECKOUT_OUTCOME_PENDING_PAYMENT,
    CheckoutOutcome.EXPIRED: entitlement_pb2.CHECKOUT_OUTCOME_EXPIRED,
    CheckoutOutcome.STILL_OPEN: entitlement_pb2.CHECKOUT_OUTCOME_STILL_OPEN,
    CheckoutOutcome.PAYMENT_FAILED: entitlement_pb2.CHECKOUT_OUTCOME_PAYMENT_FAILED,
    CheckoutOutcome.NOT_ENTITLED: entitlement_pb2.CHECKOUT_OUTCOME_NOT_ENTITLED,
    CheckoutOutcome.UNCONFIRMED: entitlement_pb2.CHECKOUT_OUTCOME_UNCONFIRMED,
}
REASONS: Final[Mapping[CheckReason, entitlement_pb2.CheckEntitlementResponse.Reason.ValueType]] = {
    CheckReason.GIVEN: _CheckMessage.REASON_GIVEN,
    CheckReason.GIVEN_IN_GRACE: _CheckMessage.REASON_GIVEN_IN_GRACE,
    CheckReason.NOT_IN_PLAN: _CheckMessage.REASON_NOT_IN_PLAN,
    CheckReason.PAYMENT_OVERDUE: _CheckMessage.REASON_PAYMENT_OVERDUE,
    CheckReason.PENDING_PAYMENT: _CheckMessage.REASON_PENDING_PAYMENT,
    CheckReason.PAUSED: _CheckMessage.REASON_PAUSED,
    CheckReason.DISPUTED: _CheckMessage.REASON_DISPUTED,
    CheckReason.ENDED: _CheckMessage.REASON_ENDED,
    CheckReason.OVERRIDDEN: _CheckMessage.REASON_OVERRIDDEN,
}


def read_wire(entitlements: Entitlements, outcome: CheckoutOutcome | None = None) -> bytes:
    """Give the GetEntitlementsResponse of what one customer may use, and what has come of a purchase where one was asked about."""
    wire = entitlements_wire(entitlements)
    if outcome is None:
        return wire
    # What is read one after the other is merged into one message.
    return wire + entitlement_pb2.GetEntitlementsResponse(checkout_outcome=OUTCOMES[outcome]).SerializeToString()


def batch_response(answers: Iterable[Entitlements]) -> entitlement_pb2.BatchGetEntitlementsResponse:
    """Convert what several customers may use, in their order.

    Raises:
        InvalidFieldsError: it is more than a message may have. gRPC would only say so, and not what to do.
    """
    response = entitlement_pb2.BatchGetEntitlementsResponse(
        responses=[get_entitlements_response(answer) for answer in answers]
    )
    size = response.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        few = len(response.responses) * MAX_MESSAGE_BYTES // size  # that many of this size fit
        raise InvalidFieldsError(
            [FieldViolation("requests", _TOO_MUCH.format(size=size, most=MAX_MESSAGE_BYTES, few=few))]
        )
    return response


def check_response(check: Check) -> entitlement_pb2.CheckEntitlementResponse:
    """Convert the judgement about one feature."""
    return entitlement_pb2.CheckEntitlementResponse(
        allowed=check.allowed,
        value=feature_value(check.value),
        reason=REASONS[check.reason],
        source=None if check.source is None else source_message(check.source),
        until_time=timestamp(check.until),
        plan_keys=check.plan_keys,
        revision=check.revision,
        read_time=timestamp(check.read_time),
        catalog_version=check.catalog_version,
        facts_time=timestamp(check.facts_time),
    )
