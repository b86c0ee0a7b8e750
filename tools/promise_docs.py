"""Checks docs/promises.md: every test that it names exists, and every type of event that is used has a rule.

python -m tools.promise_docs
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

from billing_service.domain.observation import HANDLED_TYPES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "promises.md"

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def main() -> int:
    """Name what is not there; 1 where anything is not."""
    page = PAGE.read_text(encoding="utf-8")
    named = _NAMED.findall(page)
    missing = [f"{file}::{test}" for file, test in named if test not in tests_of(file)]
    for one in missing:
        sys.stderr.write(f"docs/promises.md names {one}, which does not exist.\n")
    unruled = [event_type for event_type in HANDLED_TYPES if not is_ruled(event_type, page)]
    for event_type in unruled:
        sys.stderr.write(f"docs/promises.md has no rule for {event_type}.\n")
    sys.stdout.write(f"{len(named)} promises, {len(missing)} without their test\n")
    return 1 if missing or unruled or not named else 0


def is_ruled(event_type: str, page: str) -> bool:
    """Say whether a row names a type, by itself or, after another of its noun, by its last word."""
    noun, _, verb = event_type.rpartition(".")
    return any(
        f"`{event_type}`" in row or (f"`{noun}." in row and f"`{verb}`" in row)
        for row in page.splitlines()
        if row.startswith("|")
    )


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
