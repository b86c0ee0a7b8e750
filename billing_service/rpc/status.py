"""Errors -> google.rpc.Status: the one place that knows how an error looks on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed

from billing_service.domain.errors import (
    BillingError,
    InvalidFieldsError,
    NotFoundError,
    UnavailableError,
)

ERROR_DOMAIN: Final = "billing.v1"
DETAILS_KEY: Final = "grpc-status-details-bin"  # where gRPC looks for a google.rpc.Status
CALL_ID_KEY: Final = "call_id"  # in ErrorInfo.metadata, and in every log line of the call

INTERNAL_REASON: Final = "INTERNAL"
DEADLINE_REASON: Final = "DEADLINE_EXCEEDED"
INTERNAL_MESSAGE: Final = "An internal error; the service's log has the details under this call_id"
DEADLINE_MESSAGE: Final = "The deadline passed before the work was done; the same request_id is safe"

# gRPC clients take 8 KiB of metadata in all (grpc.max_metadata_size). The details travel in base64 (4/3) and the message
# beside them, percent-encoded (up to 3 bytes for one); so both together stay below it with room to spare.
MAX_MESSAGE_BYTES: Final = 600
MAX_VIOLATIONS_BYTES: Final = 2_400
MAX_VALUE_BYTES: Final = 250  # of one name or value in the details

CODES: Final[Mapping[str, grpc.StatusCode]] = {
    "INVALID_FIELDS": grpc.StatusCode.INVALID_ARGUMENT,
    "PLAN_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "PRICE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CHECKOUT_SESSION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "SUBSCRIPTION_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "EVENT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "GRANT_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "FINDING_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RECONCILE_RUN_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CUSTOMER_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "STRIPE_CUSTOMER_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "BINDING_CONTRADICTED": grpc.StatusCode.FAILED_PRECONDITION,
    "TOO_MANY_GRANTS": grpc.StatusCode.FAILED_PRECONDITION,
    "REQUEST_ID_REUSED": grpc.StatusCode.ALREADY_EXISTS,
    "ALREADY_SUBSCRIBED": grpc.StatusCode.FAILED_PRECONDITION,
    "PLAN_NOT_FOR_SALE": grpc.StatusCode.FAILED_PRECONDITION,
    "PRICE_NOT_AVAILABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "CHECKOUT_SUPERSEDED": grpc.StatusCode.ABORTED,
    "SUBSCRIPTION_NOT_LIVE": grpc.StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_ENDING": grpc.StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_PAUSED": grpc.StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_UNPAID": grpc.StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_CHANGE_PENDING": grpc.StatusCode.FAILED_PRECONDITION,
    "PLAN_GROUP_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "CUSTOMER_UNKNOWN_TO_STRIPE": grpc.StatusCode.FAILED_PRECONDITION,
    "PAYMENT_FAILED": grpc.StatusCode.FAILED_PRECONDITION,
    "SUBSCRIPTION_CHANGE_SUPERSEDED": grpc.StatusCode.ABORTED,
    "REQUEST_IN_PROGRESS": grpc.StatusCode.ABORTED,
    "STRIPE_REFUSED": grpc.StatusCode.FAILED_PRECONDITION,
    "STRIPE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DATABASE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "WATCHER_TOO_SLOW": grpc.StatusCode.ABORTED,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "FEATURE_NOT_FOUND": grpc.StatusCode.INVALID_ARGUMENT,
    "REVISION_NOT_REACHED": grpc.StatusCode.UNAVAILABLE,
    "AS_OF_NOT_KEPT": grpc.StatusCode.OUT_OF_RANGE,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    INTERNAL_REASON: grpc.StatusCode.INTERNAL,
    DEADLINE_REASON: grpc.StatusCode.DEADLINE_EXCEEDED,
}
CODES_BY_NUMBER: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def is_expected(error: BaseException) -> bool:
    """Say whether an error is one that callers may meet; any other is a defect of ours, or of what we stand on."""
    if isinstance(error, BillingError):
        return error.reason in CODES and error.reason != INTERNAL_REASON
    return isinstance(error, TimeoutError)


def reason_of(error: BaseException) -> str:
    """Give the reason of the contract under which an error goes out."""
    if isinstance(error, BillingError):
        return error.reason if is_expected(error) else INTERNAL_REASON
    return DEADLINE_REASON if isinstance(error, TimeoutError) else INTERNAL_REASON


def status_of(error: Exception, call_id: str) -> status_pb2.Status:
    """Put an error into the words of the contract; what is not expected says nothing but its call_id.

    Bounded in size, so that no input of a caller makes an answer that gRPC cannot carry.
    """
    if isinstance(error, BillingError) and is_expected(error):
        return _status(error.reason, error.message, {**error.metadata, CALL_ID_KEY: call_id}, _details(error))
    if isinstance(error, TimeoutError):
        return _status(DEADLINE_REASON, DEADLINE_MESSAGE, {CALL_ID_KEY: call_id})
    return _status(INTERNAL_REASON, INTERNAL_MESSAGE, {CALL_ID_KEY: call_id})


def _status(
    reason: str, message: str, metadata: Mapping[str, str], details: Iterable[Message] = ()
) -> status_pb2.Status:
    status = status_pb2.Status(code=CODES[reason].value[0], message=_cut(message, MAX_MESSAGE_BYTES))
    shown = {key: _cut(value, MAX_VALUE_BYTES) for key, value in metadata.items()}
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=shown), *details):
        status.details.add().Pack(detail)
    return status


def _details(error: BillingError) -> Iterable[Message]:
    if isinstance(error, InvalidFieldsError):
        yield _bad_request(error)
    elif isinstance(error, NotFoundError):
        yield error_details_pb2.ResourceInfo(
            resource_type=error.resource_type, resource_name=_cut(error.resource_name, MAX_VALUE_BYTES)
        )
    elif isinstance(error, UnavailableError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_s * 1000))
        yield retry


def _bad_request(error: InvalidFieldsError) -> error_details_pb2.BadRequest:
    """Name every field that does not hold, as far as the answer has room, and say so where it has not."""
    message = error_details_pb2.BadRequest()
    for shown, violation in enumerate(error.violations):
        field, description = _cut(violation.field, MAX_VALUE_BYTES), _cut(violation.description, MAX_VALUE_BYTES)
        message.field_violations.add(field=field, description=description)
        if message.ByteSize() > MAX_VIOLATIONS_BYTES:
            del message.field_violations[shown:]
            rest = f"{len(error.violations) - shown} more fields do not hold"
            message.field_violations.add(field="...", description=rest)
            break
    return message


def _cut(text: str, limit_bytes: int) -> str:
    """Shorten a text to so many bytes of UTF-8, between characters."""
    raw = text.encode(errors="replace")  # a lone surrogate would keep the answer from being sent
    if len(raw) <= limit_bytes:
        return raw.decode()
    return raw[: limit_bytes - 3].decode(errors="ignore") + "..."
