"""Every error has its place on the wire, and the contract and the code agree on which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from billing.v1 import error_reason_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed

from billing_service.domain import errors
from billing_service.domain.errors import BillingError, FieldViolation, InvalidFieldsError, PlanNotFoundError
from billing_service.rpc.status import CODES, CODES_BY_NUMBER, reason_of, status_of

_M = TypeVar("_M", bound=Message)
_PREFIX = "ERROR_REASON_"
_REASONS = {name.removeprefix(_PREFIX) for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED"
}
_PROTO = Path(__file__).parents[3] / "protos/billing/v1/error_reason.proto"
_CLIENT_METADATA_LIMIT = 8 * 1024  # grpc.max_metadata_size


def _classes(root: type[BillingError]) -> Iterator[type[BillingError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _classes(child)


def _detail(status: status_pb2.Status, kind: type[_M]) -> _M | None:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def test_maps_every_reason_of_the_contract_and_no_other() -> None:
    assert set(CODES) == _REASONS


def test_every_error_class_has_a_reason_of_the_contract_and_every_reason_a_class() -> None:
    assert {kind.reason for kind in _classes(BillingError)} | {"DEADLINE_EXCEEDED"} == _REASONS


def test_the_contract_documents_the_code_that_is_sent() -> None:
    text = _PROTO.read_text(encoding="utf-8")
    documented = re.findall(r"// ([A-Z_]+)\. (?:[^\n]*\n)(?:\s*//[^\n]*\n)*\s*ERROR_REASON_(\w+) =", text)
    assert {reason: code for code, reason in documented} == {reason: code.name for reason, code in CODES.items()}


@pytest.mark.parametrize("kind", [*_classes(BillingError)], ids=lambda kind: kind.__name__)
def test_every_error_carries_one_error_info_and_what_belongs_to_its_kind(kind: type[BillingError]) -> None:
    error: BillingError
    if kind is InvalidFieldsError:
        error = InvalidFieldsError([FieldViolation("quantity", "must be from 1 to 9")])
    elif issubclass(kind, errors.NotFoundError):
        error = kind("prp")
    elif kind is errors.FeatureNotFoundError:
        error = errors.FeatureNotFoundError("feature_key", "projetcs")
    else:
        error = kind()
    status = status_of(error, "call-1")
    info = _detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.domain, info.reason, info.metadata["call_id"]) == ("billing.v1", reason_of(error), "call-1")
    assert CODES_BY_NUMBER[status.code] is CODES[info.reason]
    if info.reason != "INTERNAL":
        has = (error_details_pb2.BadRequest, error_details_pb2.ResourceInfo, error_details_pb2.RetryInfo)
        kinds = (InvalidFieldsError, errors.NotFoundError, errors.UnavailableError)
        assert [_detail(status, detail) is not None for detail in has] == [isinstance(error, each) for each in kinds]


def test_names_the_resource_that_was_not_found() -> None:
    resource = _detail(status_of(PlanNotFoundError("prp"), ""), error_details_pb2.ResourceInfo)
    assert resource is not None
    assert (resource.resource_type, resource.resource_name) == ("plan", "prp")


def test_says_when_to_come_again() -> None:
    retry = _detail(status_of(errors.StripeUnavailableError(), ""), error_details_pb2.RetryInfo)
    assert retry is not None
    assert retry.retry_delay.ToMilliseconds() == 2_000


@pytest.mark.parametrize(
    "error", [ValueError("password hunter2"), BillingError("hunter2"), ExceptionGroup("hunter2", [OSError()])]
)
def test_says_nothing_of_an_error_that_callers_are_not_to_meet(error: Exception) -> None:
    status = status_of(error, "call-1")
    assert CODES_BY_NUMBER[status.code] is grpc.StatusCode.INTERNAL
    assert b"hunter2" not in status.SerializeToString()


def test_a_timeout_is_the_callers_deadline() -> None:
    assert CODES_BY_NUMBER[status_of(TimeoutError(), "").code] is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_answer_stays_within_what_clients_take_whatever_was_asked() -> None:
    violations = [FieldViolation(f'metadata["{"ü" * 300}{number}"]', "不" * 300) for number in range(500)]
    for error in (InvalidFieldsError(violations), PlanNotFoundError("不" * 100_000), BillingError("x")):
        status = status_of(error, "c" * 64)
        encoded = len(status.SerializeToString()) * 4 / 3 + len(status.message.encode()) * 3
        assert encoded < _CLIENT_METADATA_LIMIT - 512  # and room for the other headers


def test_says_how_many_violations_were_left_out() -> None:
    violations = [FieldViolation(f"field_{number}", "x" * 200) for number in range(100)]
    bad = _detail(status_of(InvalidFieldsError(violations), ""), error_details_pb2.BadRequest)
    assert bad is not None
    shown = len(bad.field_violations) - 1
    assert shown > 5
    assert bad.field_violations[-1].description == f"{100 - shown} more fields do not hold"


def test_carries_text_that_utf8_cannot() -> None:
    assert status_of(PlanNotFoundError("\ud800"), "").message
