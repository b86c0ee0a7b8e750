"""Copies what a program writes to standard error, and notes the secrets that it was given. Python imports it at the start.

Standard output is not copied: a command writes there what it was asked for, as the sandbox its keys.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

_FOLDER = os.environ.get("OVERHEARD_FOLDER", "")
_SECRET = re.compile(r"(?:BILLING|GATEWAY|STOREFRONT)_(?:\w+_)?(?:API_KEY|TOKEN|SECRETS)")
_URL = "BILLING_DATABASE_URL"
_ARGUMENTS = ("--api-key", "--webhook-secret")


class _Both(io.RawIOBase):
    """Standard error, and a file beside it."""

    def __init__(self, copy: io.FileIO) -> None:
        self._copy = copy
        self._out = os.dup(2)  # a program may use that number for something else (billing_service.handshakes)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._out

    def write(self, written: bytes) -> int:  # type: ignore[override]  # what a BufferedWriter gives
        count = os.write(self._out, written)
        self._copy.write(bytes(written)[:count])
        return count


def _secrets() -> set[str]:
    found = {
        part.partition("=")[2] or part
        for name, value in os.environ.items()
        if _SECRET.fullmatch(name)
        for part in value.split(",")
    }
    found |= {after for name, after in zip(sys.orig_argv, sys.orig_argv[1:], strict=False) if name in _ARGUMENTS}
    return found | {urlsplit(os.environ.get(_URL, "")).password or ""}


def _begin(folder: Path) -> None:
    words = "-".join(Path(word).name for word in sys.orig_argv[1:4])
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', words)[:60]}-{os.getpid()}-{time.monotonic_ns()}"
    copy = io.FileIO(folder / f"{name}.log", "a")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Both(copy)), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    (folder / f"{name}.secrets").write_text("\n".join(sorted(_secrets())), encoding="utf-8", errors="replace")


if _FOLDER and Path(_FOLDER).is_dir():
    _begin(Path(_FOLDER))
