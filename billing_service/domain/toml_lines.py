"""Where in a TOML text each key stands, for messages. The standard library's reader keeps no positions.

The text is cut into statements (a header, or a key with its value) with the library's own reader as the judge of where a
statement ends, so that a line is never guessed: a statement that spans lines has the line it begins on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

from billing_service.domain.toml_table import Path

# A statement is read again with each line that it grows by; past this many, its lines are not worth their cost.
MAX_STATEMENT_LINES = 500


class Lines:
    """The line, counted from 1, of every path in a text that `tomllib` takes."""

    def __init__(self, text: str) -> None:
        """Read the whole text once."""
        self._line_by_path: dict[Path, int] = {}
        self._length_by_array: dict[Path, int] = {}  # arrays of tables, and how many elements were seen
        section: Path = ()
        for line, head, content in _statements(text):
            if head.startswith("["):
                section = self._enter(content, line, is_array=head.startswith("[["))
                self._note(section, {}, line)
            else:
                self._note(section, content, line)

    def line_of(self, path: Path) -> int | None:
        """Give the line of this path or, when it is not in the text, of the nearest table around it."""
        for length in range(len(path), 0, -1):
            if (line := self._line_by_path.get(path[:length])) is not None:
                return line
        return None

    def _enter(self, header: Mapping[str, object], line: int, *, is_array: bool) -> Path:
        """Turn a header's nested keys into its path, in which every array of tables means its last element."""
        path: Path = ()
        content: object = header
        while isinstance(content, dict) and content:
            key, content = next(iter(content.items()))
            path = (*path, key)
            is_last = not content or content == [{}]
            if is_array and is_last:
                self._length_by_array[path] = self._length_by_array.get(path, 0) + 1
            if length := self._length_by_array.get(path):
                self._line_by_path.setdefault(path, line)
                path = (*path, length - 1)
        return path

    def _note(self, path: Path, content: object, line: int) -> None:
        """Note the line of everything that one statement holds."""
        if path:
            self._line_by_path.setdefault(path, line)
        if isinstance(content, dict):
            for key, value in content.items():
                self._note((*path, key), value, line)
        elif isinstance(content, list):
            for index, value in enumerate(content):
                self._note((*path, index), value, line)


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Cut a text into (line, first line, content) of its statements; stops early at one that is too long to judge."""
    pending: list[str] = []
    start = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not pending:
            start = number
        pending.append(line.removesuffix("\r"))
        try:
            content = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            if len(pending) >= MAX_STATEMENT_LINES:
                return
            continue
        if content:
            yield start, pending[0].lstrip(), content
        pending = []
