"""Errors carry what their caller is told, and nothing of another's."""

from __future__ import annotations

from billing_service.domain.errors import DatabaseUnavailableError, FieldViolation, InvalidFieldsError


def test_more_is_carried_by_a_copy_because_many_callers_may_be_given_one_error() -> None:
    shared = DatabaseUnavailableError(metadata={"a": "1"})
    told = shared.with_metadata(request_index="3")
    assert (type(told), str(told), told.message) == (DatabaseUnavailableError, str(shared), shared.message)
    assert (told.metadata, shared.metadata) == ({"a": "1", "request_index": "3"}, {"a": "1"})
    fields = InvalidFieldsError([FieldViolation("customer_id", "must be there")])
    assert fields.with_metadata(request_index="0").violations == fields.violations
