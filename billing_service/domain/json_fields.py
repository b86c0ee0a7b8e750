"""Typed reading of decoded JSON: a field is what it must be, or the whole is malformed; no message carries a value."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeGuard, TypeVar

_Status = TypeVar("_Status", bound=StrEnum)
LAST_SECOND = 253_402_300_799  # the end of the year 9999: every time that is kept can also be answered
LARGEST = 2**63 - 1  # what a bigint, and the contract's int64, can say


class MalformedError(ValueError):
    """The bytes are not an event or object that we understand; the message says what is wrong, with no value of it."""


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Say whether it is a JSON object. Nearly always a dict is asked about; to ask whether it is any mapping takes seven times as long."""
    return isinstance(value, dict) or isinstance(value, Mapping)  # noqa: SIM101 - the order is the point


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """Give a JSON object."""
    if not is_mapping(value):
        raise MalformedError(f"{name} is not an object")
    return value


def optional_mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Give a JSON object, an empty one where there is none."""
    return mapping(data.get(key) or {}, key)


def text(data: Mapping[str, Any], key: str) -> str:
    """Give a text that is not empty."""
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedError(f"{key} is not a text")
    return value


def optional_text(data: Mapping[str, Any], key: str) -> str | None:
    """Give a text; None where it is absent, null or empty."""
    value = data.get(key)
    if isinstance(value, str):
        return value or None
    return None if value is None else text(data, key)


def seconds(data: Mapping[str, Any], key: str) -> int:
    """Give a time in whole seconds since the epoch. By the type itself: True is an instance of int."""
    value = data.get(key)
    if type(value) is not int or not 0 <= value <= LAST_SECOND:
        raise MalformedError(f"{key} is not a time in seconds")
    return value


def optional_seconds(data: Mapping[str, Any], key: str) -> int | None:
    """Give a time; None where it is absent or null."""
    return None if data.get(key) is None else seconds(data, key)


def whole(data: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Give a whole number of at least 0, for example an amount in minor units."""
    value = data.get(key, default)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise MalformedError(f"{key} is not a whole number")
    return value


def optional_whole(data: Mapping[str, Any], key: str) -> int | None:
    """Give a whole number; None where it is absent or null."""
    return None if data.get(key) is None else whole(data, key)


def signed(data: Mapping[str, Any], key: str) -> int:
    """Give an amount in minor units that is below zero where it is owed the other way round; 0 where it is absent or null."""
    value = data.get(key)
    if value is not None and (type(value) is not int or abs(value) > LARGEST):
        raise MalformedError(f"{key} is not an amount")
    return value or 0


def decimal(value: object, name: str) -> int:
    """Give a number that is written as text, as metadata must."""
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 9:
        raise MalformedError(f"{name} is not a whole number")
    return int(value)


def reference(data: Mapping[str, Any], key: str) -> str | None:
    """Give the id of a reference, bare or expanded; None where there is none."""
    value = data.get(key)
    if value is None or (isinstance(value, str) and value):
        return value
    if is_mapping(value):
        return text(value, "id")
    raise MalformedError(f"{key} is neither an id nor an object")


def words(enum: type[_Status]) -> Mapping[str, _Status]:
    """Give the words of an enum, for `one_of`. To look one up takes a tenth of what the enum itself takes to find it."""
    return {word.value: word for word in enum}


def one_of(known: Mapping[str, _Status], data: Mapping[str, Any], key: str) -> _Status:
    """Give a word that is known; one that is not makes the whole malformed, for what it means is not known either."""
    value = data.get(key)
    found = known.get(value) if isinstance(value, str) else None
    if found is None:
        raise MalformedError(f"{key} is not one that is known")
    return found
