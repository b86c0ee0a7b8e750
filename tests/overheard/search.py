"""Looks through what was kept for what nobody may overhear. Pure but for reading the files."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = ">>> "  # begins a line of ours that says which test the next lines are of
SHORTEST = 8  # of a secret that is looked for as it is: a shorter one would be found in any word
CANARIES = frozenset({"hunter2"})  # what the tests put where nothing may come out

_TRACE = re.compile(r'"(?:trace|span)_id": ?"[0-9a-f]+"')  # now and then one of these is of digits alone
_DIGITS = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w.-])")
_CARD = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|(?:6011|65\d\d)\d{12,15}|35\d{14}"
)
_PATTERNS = {
    "a Stripe key": re.compile(r"\b(?:sk|rk)_(?:test|live)_\w+"),
    "a webhook secret": re.compile(r"\bwhsec_\w+"),
    "a bearer token": re.compile(r"\bBearer [\w.~+/=-]{8,}", re.IGNORECASE),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    "a password in a URL": re.compile(r"://[^\s/:@]+:[^\s/:@]+@"),
    "an e-mail address": re.compile(r"[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}"),
}


@dataclass(frozen=True)
class Finding:
    """Something that should not be there; the line with every such thing masked."""

    file: str
    line: int
    kind: str
    masked: str
    test: str  # of which it was, where that is known

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.file}:{self.line}: {self.kind}{f' ({self.test})' if self.test else ''}: {self.masked}"


def search(folder: Path) -> list[Finding]:
    """Look through every log of a folder, for the secrets that are noted there too."""
    noted = {line for file in folder.glob("*.secrets") for line in file.read_text(encoding="utf-8").splitlines()}
    secrets = CANARIES | {secret for secret in noted if len(secret) >= SHORTEST}
    return [finding for file in sorted(folder.glob("*.log")) for finding in _in_file(file, secrets)]


def _in_file(file: Path, secrets: Collection[str]) -> Iterator[Finding]:
    text = file.read_text(encoding="utf-8", errors="replace")
    there = [secret for secret in secrets if secret in text]  # first over the whole, which is fast
    test = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(MARK):
            test = line.removeprefix(MARK)
            continue
        kinds, masked = masked_of(line, there)
        if kinds:
            yield Finding(file.name, number, ", ".join(kinds), masked[:300], test)


def masked_of(line: str, secrets: Collection[str]) -> tuple[list[str], str]:
    """Say what is in a line that may not be, and give the line without it."""
    kinds = []
    masked = _TRACE.sub('"trace"', line)
    for secret in secrets:
        if secret in masked:
            kinds.append("a secret of the tests")
            masked = masked.replace(secret, "<secret>")
    for kind, pattern in _PATTERNS.items():
        masked, count = pattern.subn(f"<{kind}>", masked)
        kinds += [kind] * bool(count)
    masked, cards = _without_cards(masked)
    return kinds + ["a card number"] * bool(cards), masked


def _without_cards(line: str) -> tuple[str, int]:
    found = 0

    def mask(match: re.Match[str]) -> str:
        nonlocal found
        digits = re.sub(r"[ -]", "", match[0])
        if not _CARD.fullmatch(digits) or not is_luhn(digits):
            return match[0]
        found += 1
        return "<card>"

    return _DIGITS.sub(mask, line), found


def is_luhn(digits: str) -> bool:
    """Say whether a number's last digit is the check digit of the others, as every card's is."""
    doubled: Callable[[int], int] = lambda digit: digit * 2 - 9 * (digit > 4)  # noqa: E731 - one line of arithmetic
    return sum(doubled(int(d)) if at % 2 else int(d) for at, d in enumerate(reversed(digits))) % 10 == 0
