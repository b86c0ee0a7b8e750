"""Requests: protobuf -> domain, every rule of the contract's comments checked, every violation reported at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import checkout_pb2, watch_pb2

from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.errors import FieldViolation, InvalidFieldsError
from billing_service.rpc import field_rules

MAX_EVENTS = 256  # of one Fulfill, as the contract says
MAX_WATCHED = 1_000  # customers of one watch, as the contract says
MAX_CURSOR_CHARS = 500
MAX_REPORTED_ENTRIES = 64  # entries of a map that are looked at one by one; an error is not to grow with the request
MAX_SHOWN_KEY_CHARS = 40

Problems = Iterator[tuple[str, str | None]]


def refuse(problems: Problems) -> None:
    """Raise InvalidFieldsError with every problem that there is."""
    violations = [FieldViolation(field, problem) for field, problem in problems if problem is not None]
    if violations:
        raise InvalidFieldsError(violations)


def checkout_request(
    message: checkout_pb2.CreateCheckoutSessionRequest, redirect_hosts: Collection[str] = ()
) -> CheckoutRequest:
    """Read a CreateCheckoutSessionRequest. Its URLs must lead to one of `redirect_hosts`; to any host where there are none.

    Raises:
        InvalidFieldsError: with every field that breaks a rule of the contract.
    """
    refuse(_checkout_problems(message, redirect_hosts))
    return CheckoutRequest(
        request_id=message.request_id,
        customer_id=message.customer_id,
        plan_key=message.plan_key,
        price_key=message.price_key if message.HasField("price_key") else None,
        quantity=message.quantity if message.HasField("quantity") else 1,
        success_url=message.success_url,
        cancel_url=message.cancel_url,
        customer_email=message.customer_email if message.HasField("customer_email") else None,
        allow_promotion_codes=message.allow_promotion_codes,
        metadata=dict(message.metadata),
    )


def _checkout_problems(message: checkout_pb2.CreateCheckoutSessionRequest, redirect_hosts: Collection[str]) -> Problems:
    yield "request_id", field_rules.request_id_problem(message.request_id)
    yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    yield "plan_key", field_rules.key_problem(message.plan_key)
    if message.HasField("price_key"):
        yield "price_key", field_rules.key_problem(message.price_key)
    if message.HasField("quantity"):
        yield "quantity", field_rules.quantity_problem(message.quantity)
    yield "success_url", field_rules.url_problem(message.success_url, redirect_hosts)
    yield "cancel_url", field_rules.url_problem(message.cancel_url, redirect_hosts)
    if message.HasField("customer_email"):
        yield "customer_email", field_rules.email_problem(message.customer_email)
    yield from _metadata_problems(message.metadata)


def _metadata_problems(metadata: Mapping[str, str]) -> Problems:
    if len(metadata) > field_rules.MAX_METADATA_ENTRIES:
        yield "metadata", f"must have at most {field_rules.MAX_METADATA_ENTRIES} entries"
    for key in sorted(metadata)[:MAX_REPORTED_ENTRIES]:
        shown = key if len(key) <= MAX_SHOWN_KEY_CHARS else f"{key[:MAX_SHOWN_KEY_CHARS]}..."
        yield f'metadata["{shown}"]', field_rules.metadata_entry_problem(key, metadata[key])


def checkout_session_id(message: checkout_pb2.GetCheckoutSessionRequest) -> str:
    """Read a GetCheckoutSessionRequest.

    Raises:
        InvalidFieldsError: when the id cannot be one of Stripe's.
    """
    refuse(
        iter([("checkout_session_id", field_rules.checkout_session_id_problem(message.checkout_session_id))]),
    )
    return message.checkout_session_id


def watch_request(message: watch_pb2.WatchEntitlementsRequest) -> tuple[Sequence[str] | None, str | None]:
    """Read a WatchEntitlementsRequest: the customers, None for all, and the cursor, None where there is none.

    Raises:
        InvalidFieldsError: with every field that breaks a rule of the contract.
    """
    refuse(_watch_problems(message))
    return list(message.customer_ids) or None, message.cursor or None


def _watch_problems(message: watch_pb2.WatchEntitlementsRequest) -> Problems:
    ids = message.customer_ids
    if len(ids) > MAX_WATCHED:
        yield "customer_ids", f"must have at most {MAX_WATCHED} customers; watch all with none"
    if len(set(ids)) != len(ids):
        yield "customer_ids", "must have each customer once"
    for index, one in enumerate(ids[:MAX_REPORTED_ENTRIES]):
        yield f"customer_ids[{index}]", field_rules.customer_id_problem(one)
    if any(field_rules.customer_id_problem(one) for one in ids[MAX_REPORTED_ENTRIES:]):
        yield "customer_ids", "must have customers' ids alone"
    if len(message.cursor) > MAX_CURSOR_CHARS:
        yield "cursor", "must be the last cursor that was received, or empty"


def traceparents(message: fulfillment_service_pb2.FulfillRequest) -> Sequence[str]:
    """Read in which trace each event of a FulfillRequest is; empty where none is in any."""
    found = [event.traceparent for event in message.events]
    return found if any(found) else ()


def event_payloads(message: fulfillment_service_pb2.FulfillRequest) -> Sequence[bytes]:
    """Read a FulfillRequest: the raw bodies, in the order of the request.

    An empty payload is no violation: it is an event that is malformed, and has its own result.

    Raises:
        InvalidFieldsError: for more than 256. None are none: whoever asks wants to know whether he may.
    """
    problem = None if len(message.events) <= MAX_EVENTS else f"must have at most {MAX_EVENTS} events"
    refuse(iter([("events", problem)]))
    return [event.payload for event in message.events]
