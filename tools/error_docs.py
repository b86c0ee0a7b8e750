"""docs/errors.md from protos/billing/v1/error_reason.proto: `python -m tools.error_docs` writes it, `--check` compares."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "protos" / "billing" / "v1" / "error_reason.proto"
PAGE = ROOT / "docs" / "errors.md"
PREFIX = "ERROR_REASON_"

_VALUE = re.compile(rf"(?P<comment>(?:^ *//.*\n)+) *{PREFIX}(?P<name>[A-Z0-9_]+) = (?P<number>\d+);", re.MULTILINE)
_ENUM = re.compile(r"(?P<comment>(?:^//.*\n)+)enum ErrorReason ", re.MULTILINE)
_FIELD = re.compile(r"\bgoogle\.rpc\.(\w+)")


@dataclass(frozen=True)
class Reason:
    """One value of the enum, as its comment tells it."""

    name: str  # without the prefix, as ErrorInfo carries it
    code: str  # the canonical gRPC code
    text: str


def read_reasons(proto: str) -> list[Reason]:
    """Give the reasons that are sent, in the order of the contract.

    Raises:
        ValueError: a comment does not begin with the canonical code.
    """
    reasons = []
    for match in _VALUE.finditer(proto):
        if match["number"] == "0":
            continue  # "Never sent."
        code, _, text = _plain(match["comment"]).partition(". ")
        if not re.fullmatch(r"[A-Z_]+", code) or not text:
            raise ValueError(
                f'{PREFIX}{match["name"]}: its comment must begin with the canonical code, as in "NOT_FOUND. ..."'
            )
        reasons.append(Reason(match["name"], code, text))
    return reasons


def render(proto: str) -> str:
    """Give the whole page."""
    reasons = read_reasons(proto)
    enum = _ENUM.search(proto)
    lines = [
        "# Errors",
        "",
        "<!-- Generated from protos/billing/v1/error_reason.proto by `python -m tools.error_docs`; edit the comments there. -->",
        "",
        _marked(_plain(enum["comment"])) if enum else "",
        "",
        "| reason | canonical code |",
        "|---|---|",
        *(f"| [`{reason.name}`](#{reason.name.lower()}) | `{reason.code}` |" for reason in reasons),
    ]
    for reason in reasons:
        lines += ["", f"## {reason.name}", "", f"`{reason.code}`. {_marked(reason.text)}"]
    return "\n".join(lines) + "\n"


def _plain(comment: str) -> str:
    """Join the lines of a proto comment."""
    return " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())


def _marked(text: str) -> str:
    """Set names of google.rpc in code type."""
    return _FIELD.sub(r"`google.rpc.\1`", text)


def main() -> int:
    """Write the page, or with --check say whether it is what the contract says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is not up to date")
    is_check = parser.parse_args().check
    page = render(PROTO.read_text(encoding="utf-8"))
    if not is_check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
        sys.stderr.write("docs/errors.md is not what the contract says: run 'python -m tools.error_docs' and commit.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
