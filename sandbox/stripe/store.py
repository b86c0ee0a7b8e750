"""The stand-in's memory, and the file that outlives it.

The file is a journal of JSON lines, one line per commit, so that a commit costs what it changes and `kill -9` in the middle
of a write loses that commit alone. Opening reads it, drops what later lines replaced and swaps the short file in atomically.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import IO, Any

from sandbox.stripe.objects import Kind, Object

_log = logging.getLogger(__name__)


class Store:
    """Objects by kind and id, in the order in which they came to be.

    The dicts it returns are the ones it holds: whoever changes one calls `put` with it. Changes are in memory at once and
    in the file after `commit`.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Take the journal's place, or None to remember nothing."""
        self._path = path
        self._tables: dict[Kind, dict[str, Object]] = {kind: {} for kind in Kind}
        self._touched: dict[tuple[Kind, str], None] = {}
        self._file: IO[str] | None = None

    def open(self) -> None:
        """Read the journal, shorten it and get ready to append."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._replay(self._path)
        short = self._path.with_name(f"{self._path.name}.new")
        with short.open("w", encoding="utf-8") as file:
            for kind, table in self._tables.items():
                file.writelines(_line([[kind, object_id, obj]]) for object_id, obj in table.items())
            file.flush()
            os.fsync(file.fileno())
        short.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Write what is not written and let go of the file."""
        self.commit()
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, kind: Kind, object_id: str) -> Object | None:
        """Look one object up."""
        return self._tables[kind].get(object_id)

    def all(self, kind: Kind) -> list[Object]:
        """List a kind's objects, oldest first."""
        return list(self._tables[kind].values())

    def newest_first(self, kind: Kind) -> list[Object]:
        """List a kind's objects as Stripe lists them."""
        return list(reversed(self._tables[kind].values()))

    def items(self, kind: Kind) -> list[tuple[str, Object]]:
        """List a kind's objects with the ids they are kept by, oldest first."""
        return list(self._tables[kind].items())

    def put(self, kind: Kind, object_id: str, obj: Object) -> None:
        """Keep an object, new or changed."""
        self._tables[kind][object_id] = obj
        self._touched[kind, object_id] = None

    def delete(self, kind: Kind, object_id: str) -> None:
        """Forget an object."""
        if self._tables[kind].pop(object_id, None) is not None:
            self._touched[kind, object_id] = None

    def commit(self) -> None:
        """Append everything touched since the last commit as one line: all of it survives, or none."""
        touched, self._touched = self._touched, {}
        if self._file is None or not touched:
            return
        self._file.write(_line([[kind, object_id, self._tables[kind].get(object_id)] for kind, object_id in touched]))
        self._file.flush()  # the kernel has it now: enough against kill -9, and a sandbox owes nothing to a power cut

    def _replay(self, path: Path) -> None:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    changes = json.loads(line)
                except ValueError:
                    _log.warning("%s: line %d is cut short and left out", path, number)
                    continue
                for kind, object_id, obj in changes:
                    self._apply(Kind(kind), object_id, obj)

    def _apply(self, kind: Kind, object_id: str, obj: Object | None) -> None:
        if obj is None:
            self._tables[kind].pop(object_id, None)
        else:
            self._tables[kind][object_id] = obj


def _line(changes: list[list[Any]]) -> str:
    return json.dumps(changes, separators=(",", ":")) + "\n"
