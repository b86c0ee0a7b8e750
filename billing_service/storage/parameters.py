"""Statements with `:named` parameters as PostgreSQL takes them, and Python's values as parameters.

PostgreSQL itself infers each parameter's type from where it stands, so a value is only written out: as text, or as raw bytes
where it is bytes. Arrays are one parameter each, however long; those of texts go in PostgreSQL's own form, in which nothing has
to be escaped and searched through again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence, Set  # noqa: PYI025 - the type of constants
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property, lru_cache
from typing import Any, Final
from uuid import UUID

import psycopg

_NUL: Final = "PostgreSQL's text cannot contain NUL"
TEXT: Final = 0
BINARY: Final = 1
_STATEMENTS: Final = 1_024  # of a program's text; far more than there are
_INT: Final[Set[type]] = {int}
_BYTES: Final[Set[type]] = {bytes}
_BYTEA_OID: Final = 17  # pg_type.dat
_TEXT_OID: Final = 25
_NAMED: Final = re.compile(r"(?<![:\w]):([a-z_]\w*)")  # and not ::type
_HEAD: Final = struct.Struct("!iiiii")  # dimensions, whether there are NULLs, the type, how many, the first index
_LENGTH: Final = struct.Struct("!i")
_NULL: Final = _LENGTH.pack(-1)
_TEXTS: Final = re.compile(r"CAST\(:([a-z_]\w*) AS text\[\]\)")
# What a statement writes says most of it; of one that writes nothing, what it asks.
_SUMMARIES: Final = (
    re.compile(r"(?<!FOR )(?<!DO )(?<!KEY )\b(INSERT|UPDATE|DELETE)(?: INTO| FROM)? (\w+)"),
    re.compile(r"\b(SELECT) (pg_\w+)"),
    re.compile(r"\b(SELECT)\b.*?\bFROM (?!unnest)(\w+)", re.DOTALL),
    re.compile(r"(\w+)"),
)


@dataclass(frozen=True)
class Prepared:
    """A statement as PostgreSQL prepares it, the name under which it does, and its parameters in order."""

    name: bytes
    sql: bytes
    parameters: tuple[str, ...]
    texts: frozenset[str]  # the parameters that are arrays of texts

    @cached_property
    def summary(self) -> str:
        """Say what it does to which table, as a trace shows it: "INSERT stripe_events". Nothing of its values."""
        sql = self.sql.decode()
        found = next((match for pattern in _SUMMARIES if (match := pattern.search(sql))), None)
        return " ".join(found.groups()) if found else ""


@lru_cache(maxsize=_STATEMENTS)
def prepared(text: str) -> Prepared:
    """Number the named parameters of a statement; the same text has the same name for as long as the program runs."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}"

    numbered = _NAMED.sub(number, text)
    _count.append(None)
    return Prepared(b"s%d" % len(_count), numbered.encode(), tuple(names), frozenset(_TEXTS.findall(text)))


_count: Final[list[None]] = []  # statements so far


def encoded(statement: Prepared, values: Mapping[str, Any] | None) -> tuple[Sequence[bytes | None], Sequence[int]]:
    """Write out a statement's parameters, and say of each whether it is text or binary.

    Raises:
        psycopg.DataError: a text has a NUL in it, which PostgreSQL's texts cannot.
        UnicodeEncodeError: a text is not Unicode (a lone surrogate).
        KeyError: a parameter has no value.
    """
    if values is None:
        return (), ()
    data: list[bytes | None] = []
    kinds: list[int] = []
    for name in statement.parameters:
        value = values[name]
        are_texts = value and name in statement.texts and isinstance(value, list | tuple)
        written, kind = (_texts(value), BINARY) if are_texts else _parameter(value)
        data.append(written)
        kinds.append(kind)
    return data, kinds


def _parameter(value: Any) -> tuple[bytes | None, int]:
    if value is None:
        return None, TEXT
    kind = type(value)
    if kind is list or kind is tuple:
        return _array(value)
    if kind is bytes:
        return value, BINARY
    return _scalar(value).encode(), TEXT


def _scalar(value: Any) -> str:
    write = _WRITERS.get(type(value))
    if write is not None:
        return write(value)
    for kind, write in _WRITERS.items():  # a member of an enumeration is a str as well
        if isinstance(value, kind):
            return write(value)
    raise TypeError(f"no parameter can be a {type(value).__name__}")


def _text(value: str) -> str:
    if "\0" in value:
        raise psycopg.DataError(_NUL)
    return value


# A bool is an int as well: it comes first.
_WRITERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: _text,
    bool: lambda value: "t" if value else "f",
    int: str,
    float: repr,
    UUID: str,
    date: lambda value: value.isoformat(),  # a datetime is a date as well
    timedelta: lambda value: f"{value // timedelta(microseconds=1)} microseconds",
}


def _array(values: Sequence[Any]) -> tuple[bytes, int]:
    kinds = set(map(type, values))
    if kinds == _BYTES:
        return _array_of(_BYTEA_OID, values), BINARY
    if kinds == _INT:
        return ("{" + ",".join(map(str, values)) + "}").encode(), TEXT
    return ("{" + ",".join(["NULL" if value is None else _element(value) for value in values]) + "}").encode(), TEXT


def _element(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return '"' + _scalar(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _texts(values: Sequence[str | None]) -> bytes:
    written = [None if value is None else _text(value).encode() for value in values]
    return _array_of(_TEXT_OID, written)


def _array_of(oid: int, values: Sequence[bytes | None]) -> bytes:
    """One dimension from 1 on: array_recv in PostgreSQL's arrayfuncs.c."""
    parts = [_HEAD.pack(1, None in values, oid, len(values), 1)]
    for value in values:
        parts += (_NULL,) if value is None else (_LENGTH.pack(len(value)), value)
    return b"".join(parts)
