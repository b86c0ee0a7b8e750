"""What operators did, as they are asked for it and told: both ways between protobuf and the record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from billing.admin.v1 import operator_request_pb2 as pb

from billing_service.domain.operator import Operation
from billing_service.rpc import field_rules, pages
from billing_service.rpc.admin_requests import time_of, time_problems
from billing_service.rpc.requests import Problems, refuse
from billing_service.rpc.responses import timestamp
from billing_service.storage.operator_requests import Filter, Place, RecordedRequest

_Kind = pb.OperatorRequest
OPERATIONS: Final[Mapping[int, Operation]] = {
    _Kind.OPERATION_CREATE_GRANT: Operation.CREATE_GRANT,
    _Kind.OPERATION_REVOKE_GRANT: Operation.REVOKE_GRANT,
    _Kind.OPERATION_LINK_STRIPE_CUSTOMER: Operation.LINK_STRIPE_CUSTOMER,
    _Kind.OPERATION_REPLAY_EVENTS: Operation.REPLAY_EVENTS,
    _Kind.OPERATION_RECONCILE: Operation.RECONCILE,
    _Kind.OPERATION_CLOSE_FINDING: Operation.CLOSE_FINDING,
    _Kind.OPERATION_ERASE_CUSTOMER: Operation.ERASE_CUSTOMER,
    _Kind.OPERATION_DISCARD_QUARANTINED_EVENT: Operation.DISCARD_QUARANTINED_EVENT,
}
_NUMBERS: Final = {operation: number for number, operation in OPERATIONS.items()}


def page_asked(message: pb.ListOperatorRequestsRequest) -> tuple[Filter, Place | None, int]:
    """Read a ListOperatorRequestsRequest: the filter, the place, and how many. Raises InvalidFieldsError with every field."""
    refuse(_problems(message))
    given = {name: getattr(message, name) for name in ("customer_id", "actor", "identity") if message.HasField(name)}
    chosen = Filter(
        **given,
        operation=OPERATIONS.get(message.operation),
        start=time_of(message.start_time) if message.HasField("start_time") else None,
        end=time_of(message.end_time) if message.HasField("end_time") else None,
    )
    return chosen, pages.place(message, tuple[datetime, str]), pages.size(message)


def _problems(message: pb.ListOperatorRequestsRequest) -> Problems:
    rules = {
        "customer_id": field_rules.customer_id_problem,
        "actor": field_rules.actor_problem,
        "identity": field_rules.actor_problem,
    }
    for name, problem in rules.items():
        if message.HasField(name):  # type: ignore[arg-type]  # each is optional
            yield name, problem(getattr(message, name))
    yield "operation", None if message.operation in {0, *OPERATIONS} else "must be an operation of the contract"
    yield from time_problems(message, "start_time", "end_time")
    yield from pages.problems(message, tuple[datetime, str])


def page_told(found: Iterable[RecordedRequest], next_page_token: str) -> pb.ListOperatorRequestsResponse:
    """Convert a page of what operators did."""
    return pb.ListOperatorRequestsResponse(
        operator_requests=[_message(one) for one in found], next_page_token=next_page_token
    )


def _message(one: RecordedRequest) -> pb.OperatorRequest:
    number = _Kind.OPERATION_UNSPECIFIED if one.operation is None else _NUMBERS[one.operation]
    message = pb.OperatorRequest(
        request_id=one.order.request_id,
        operation=_Kind.Operation.ValueType(number),
        actor=one.order.actor,
        identity=one.order.identity or "",
        reason=one.order.reason,
        customer_id=one.customer_id or "",
        create_time=timestamp(one.create_time),
    )
    message.result.update(dict(one.result))
    return message
