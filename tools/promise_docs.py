"""Checks that every test that docs/promises.md names exists: `python -m tools.promise_docs`."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "promises.md"

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def main() -> int:
    """Name what is not there; 1 where anything is not."""
    named = _NAMED.findall(PAGE.read_text(encoding="utf-8"))
    missing = [f"{file}::{test}" for file, test in named if test not in tests_of(file)]
    for one in missing:
        sys.stderr.write(f"docs/promises.md names {one}, which does not exist.\n")
    sys.stdout.write(f"{len(named)} promises, {len(missing)} without their test\n")
    return 1 if missing or not named else 0


@cache
def tests_of(file: str) -> frozenset[str]:
    """Give the names of the tests in a file; none where it does not exist."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


if __name__ == "__main__":
    sys.exit(main())
