"""Requests about entitlements: protobuf -> domain, by the rules of the contract's comments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from billing.v1 import entitlement_pb2

from billing_service.domain.entitlement_query import EntitlementsQuery
from billing_service.rpc import field_rules
from billing_service.rpc.requests import Problems, refuse

MAX_FEATURE_KEYS: Final = 500  # as many as a catalog has
MAX_BATCH: Final = 200


@dataclass(frozen=True)
class CheckQuery:
    """A question about one feature of one customer."""

    customer_id: str
    feature_key: str
    min_revision: int


def entitlements_query(message: entitlement_pb2.GetEntitlementsRequest) -> EntitlementsQuery:
    """Read a GetEntitlementsRequest.

    Raises:
        InvalidFieldsError: with every field that breaks a rule of the contract.
    """
    if _is_plain(message):
        return EntitlementsQuery(message.customer_id, min_revision=message.min_revision)
    refuse(_query_problems(message, ""))
    return _query(message)


def _is_plain(message: entitlement_pb2.GetEntitlementsRequest) -> bool:
    """Say whether a customer is all that is asked about, and rightly: nearly every call is such, and is not to pay for the others."""
    return (
        not message.feature_keys
        and message.min_revision >= 0
        and not message.HasField("as_of")
        and not message.HasField("after_checkout_session_id")
        and field_rules.customer_id_problem(message.customer_id) is None
    )


def batch_query(message: entitlement_pb2.BatchGetEntitlementsRequest) -> list[EntitlementsQuery]:
    """Read a BatchGetEntitlementsRequest: 1 to 200 requests. Raises as `entitlements_query` does, naming each request."""
    count = len(message.requests)
    if not 1 <= count <= MAX_BATCH:
        refuse(iter([("requests", f"must have 1 to {MAX_BATCH} entries")]))
    refuse(_batch_problems(message))
    return [_query(request) for request in message.requests]


def check_query(message: entitlement_pb2.CheckEntitlementRequest) -> CheckQuery:
    """Read a CheckEntitlementRequest. Raises as `entitlements_query` does."""
    refuse(_check_problems(message))
    return CheckQuery(message.customer_id, message.feature_key, message.min_revision)


def _check_problems(message: entitlement_pb2.CheckEntitlementRequest) -> Problems:
    yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    yield "feature_key", field_rules.key_problem(message.feature_key)
    yield "min_revision", _revision_problem(message.min_revision)


def _batch_problems(message: entitlement_pb2.BatchGetEntitlementsRequest) -> Problems:
    for index, request in enumerate(message.requests):
        prefix = f"requests[{index}]."
        yield from _query_problems(request, prefix)
        if request.HasField("after_checkout_session_id"):
            yield (
                f"{prefix}after_checkout_session_id",
                "must be absent: a batch does not wait; ask with GetEntitlements",
            )


def _query_problems(message: entitlement_pb2.GetEntitlementsRequest, prefix: str) -> Problems:
    yield f"{prefix}customer_id", field_rules.customer_id_problem(message.customer_id)
    yield f"{prefix}min_revision", _revision_problem(message.min_revision)
    if message.feature_keys:
        yield from _feature_problems(message, prefix)
    waits = message.HasField("after_checkout_session_id")
    if waits:
        problem = field_rules.checkout_session_id_problem(message.after_checkout_session_id)
        yield f"{prefix}after_checkout_session_id", problem
    if message.HasField("as_of"):
        if waits or message.min_revision:
            yield (
                f"{prefix}as_of",
                "must not come with min_revision or after_checkout_session_id: the past is not waited for",
            )
        elif _as_of(message) is None:
            yield f"{prefix}as_of", "must be a valid Timestamp, from the year 1 to 9999"


def _feature_problems(message: entitlement_pb2.GetEntitlementsRequest, prefix: str) -> Problems:
    if len(message.feature_keys) > MAX_FEATURE_KEYS:
        yield f"{prefix}feature_keys", f"must have at most {MAX_FEATURE_KEYS} entries"
        return
    for index, key in enumerate(message.feature_keys):
        yield f"{prefix}feature_keys[{index}]", field_rules.key_problem(key)


def _revision_problem(revision: int) -> str | None:
    return None if revision >= 0 else "must not be negative; 0 asks for whatever is committed"


def _query(message: entitlement_pb2.GetEntitlementsRequest) -> EntitlementsQuery:
    waits = message.HasField("after_checkout_session_id")
    return EntitlementsQuery(
        message.customer_id,
        tuple(message.feature_keys),
        message.min_revision,
        message.after_checkout_session_id if waits else None,
        _as_of(message) if message.HasField("as_of") else None,
    )


def _as_of(message: entitlement_pb2.GetEntitlementsRequest) -> datetime | None:
    try:
        return message.as_of.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
