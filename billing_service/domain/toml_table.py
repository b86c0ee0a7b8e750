"""Typed reading of a TOML table that notes every problem with its place, instead of stopping at the first.

A value that does not hold is noted and replaced by an empty one of the right type, so that reading goes on: whatever is
built after a note is only good for finding more problems, and its reader throws it away.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from enum import StrEnum
from typing import TypeVar

Path = tuple[str | int, ...]  # ("plans", "pro", "prices", 1, "lookup_key")

KEY_SYNTAX = re.compile(r"[a-z][a-z0-9_]{0,63}")
KEY_RULE = "must be a lower-case letter followed by at most 63 lower-case letters, digits and underscores"
MAX_TEXT_CHARS = 500
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

_Choice = TypeVar("_Choice", bound=StrEnum)


def place_of(path: Path) -> str:
    """Write a path as a person would: `plans.pro.prices[1].lookup_key`; empty for the whole file."""
    place = ""
    for part in path:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            place += f".{name}" if place else name
    return place


def suggestion(word: str, known: Iterable[str]) -> str:
    """Give `; did you mean "…"?` where a known word is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def kind_of(value: object) -> str:
    """Name a TOML value's kind for a message."""
    if isinstance(value, bool):  # before int: True is an int to Python
        return "a boolean"
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (int, "an integer"),
        (float, "a decimal number"),
        (str, "a text"),
        (list, "an array"),
        (dict, "a table"),
        ((date, time), "a date or time"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "a value of another kind")


@dataclass
class Notes:
    """What was found wrong so far, in the order of finding."""

    entries: list[tuple[Path, str]] = field(default_factory=list)

    def add(self, path: Path, message: str) -> None:
        """Note one problem; the message reads on from the place."""
        self.entries.append((path, message))


@dataclass(frozen=True)
class Table:
    """One table of the file: typed access to its keys, each method noting what does not hold."""

    values: Mapping[str, object]
    path: Path
    notes: Notes

    def note(self, key: str, message: str) -> None:
        """Note a problem of one key of this table."""
        self.notes.add((*self.path, key), message)

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Note every key that is not one of the known ones."""
        for key in self.values:
            if key not in known:
                self.note(key, f"is not a known key{suggestion(key, known)}")

    def text(self, key: str, *, default: str | None = None) -> str:
        """Give a one-line text that is not blank; without a default it must be there."""
        value = self.values.get(key, default)
        if value is None:
            self.note(key, "is missing")
        elif not isinstance(value, str):
            self.note(key, f"must be a text, not {kind_of(value)}")
        elif problem := text_problem(value):
            self.note(key, problem)
        elif not value.strip() and default is None:
            self.note(key, "must not be blank")
        else:
            return value
        return ""

    def key(self, key: str) -> str:
        """Give a text in the syntax of keys; it must be there."""
        value = self.text(key)
        if value and not KEY_SYNTAX.fullmatch(value):
            self.note(key, KEY_RULE)
        return value

    def choice(self, key: str, choices: type[_Choice]) -> _Choice | None:
        """Give one of an enumeration's words; it must be there. None only after a note."""
        words = [str(word) for word in choices]
        wanted = f"must be one of {', '.join(json.dumps(word) for word in words)}"
        value = self.values.get(key)
        if key not in self.values:
            self.note(key, f"is missing: it {wanted}")
        elif isinstance(value, str) and value in words:
            return choices(value)
        else:
            self.note(key, wanted + (suggestion(value, words) if isinstance(value, str) else ""))
        return None

    def boolean(self, key: str, *, default: bool) -> bool:
        """Give true or false."""
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self.note(key, f"must be true or false, not {kind_of(value)}")
        return default

    def integer(self, key: str, *, least: int, most: int, default: int) -> int:
        """Give an integer within [least, most]."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.note(key, f"must be an integer, not {kind_of(value)}")
        elif not least <= value <= most:
            self.note(key, f"must be between {least:,} and {most:,}")
        else:
            return value
        return default

    def table(self, key: str, *, required: bool = False) -> Table:
        """Give a table below this one; an empty one where there is none."""
        value = self.values.get(key, {})
        if required and key not in self.values:
            self.note(key, "is missing")
        if not isinstance(value, dict):
            self.note(key, f"must be a table, not {kind_of(value)}")
            value = {}
        return Table(value, (*self.path, key), self.notes)

    def named_tables(self, *, most: int) -> Iterator[tuple[str, Table]]:
        """Give the tables below this one with their keys, whose syntax is checked; at most `most` of them."""
        for key in list(self.values)[:most]:
            if not KEY_SYNTAX.fullmatch(key):
                self.note(key, f"is no key: it {KEY_RULE}")
            yield key, self.table(key)
        if len(self.values) > most:
            self.notes.add(self.path, f"has {len(self.values):,} entries; at most {most:,} are taken")

    def elements(self, key: str, *, most: int) -> tuple[object, ...]:
        """Give the elements of an array; nothing where there is none."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self.note(key, f"must be an array, not {kind_of(value)}")
            return ()
        if len(value) > most:
            self.note(key, f"has {len(value):,} elements; at most {most:,} are taken")
        return tuple(value[:most])

    def tables(self, key: str, *, most: int) -> tuple[Table, ...]:
        """Give the tables of an array of tables; an empty one for an element that is none."""
        found = []
        for index, value in enumerate(self.elements(key, most=most)):
            path = (*self.path, key, index)
            if not isinstance(value, dict):
                self.notes.add(path, f"must be a table, not {kind_of(value)}")
                continue
            found.append(Table(value, path, self.notes))
        return tuple(found)


def text_problem(value: str) -> str | None:
    """Say what is wrong with a text; None when nothing is. Control characters break pages, logs and Postgres (NUL)."""
    if len(value) > MAX_TEXT_CHARS:
        return f"must have at most {MAX_TEXT_CHARS} characters, not {len(value):,}"
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value):
        return "must be one line without control characters"
    return None
