"""Copies what a program writes to standard error, and notes the secrets that it was given, by variables, arguments and files.

Python imports it at the start. Files are read again at the end: what was put in their place meanwhile is a secret too.

Standard output is not copied: a command writes there what it was asked for, as the sandbox its keys.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

_FOLDER = os.environ.get("OVERHEARD_FOLDER", "")
_SECRET = re.compile(r"(?:BILLING|GATEWAY|STOREFRONT)_(?:\w+_)?(?:API_KEY|TOKEN|SECRETS)")
_URL = re.compile(r"BILLING_(?:\w+_)?DATABASE_URL")
_ACCESS = "BILLING_ACCESS"  # of whose file the hashes alone are secret
_HASH = re.compile(r"\bsha256:([0-9a-f]{64})\b")
_ARGUMENTS = {
    "--api-key": "BILLING_API_KEY",
    "--webhook-secret": "GATEWAY_SECRETS",
    "--token-file": "BILLING_TOKEN_FILE",
}
_LARGEST = 65_536  # bytes of a file; the largest that a program is given has 200 lines


class _Both(io.RawIOBase):
    """Standard error, and a file beside it."""

    def __init__(self, copy: Path) -> None:
        # A number and no file object: it is open until the program ends, and one of those would say then that nobody has closed it.
        self._copy = os.open(copy, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._out = os.dup(2)  # a program may use that number for something else (billing_service.handshakes)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._out

    def write(self, written: bytes) -> int:  # type: ignore[override]  # what a BufferedWriter gives
        count = os.write(self._out, written)
        os.write(self._copy, bytes(written)[:count])
        return count


def _given() -> Iterator[tuple[str, str]]:
    """Give name and value of what the program was given, whichever way; what stands in a file by the name without `_FILE`."""
    words = zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    arguments = [(_ARGUMENTS[name], value) for name, value in words if name in _ARGUMENTS]
    for name, value in (*os.environ.items(), *arguments):
        yield name, value
        if name.endswith("_FILE"):
            yield name.removesuffix("_FILE"), _read(Path(value))
        elif name.endswith("_SECRETS_DIR") and Path(value).is_dir():
            yield from ((file.name.upper(), _read(file)) for file in Path(value).iterdir())


def _read(file: Path) -> str:
    try:
        if not file.is_file():  # a pipe would wait
            return ""
        with file.open("rb") as opened:
            return opened.read(_LARGEST).decode("utf-8", "replace").strip()
    except OSError:  # the program will say so
        return ""


def _secrets() -> set[str]:
    found = set()
    for name, value in _given():
        if _SECRET.fullmatch(name):
            found |= {part.partition("=")[2] or part for part in value.split(",")}
        elif _URL.fullmatch(name):
            found.add(urlsplit(value).password or "")
        elif name == _ACCESS:
            found |= set(_HASH.findall(value))
    return found


def _note(file: Path) -> None:
    try:
        with file.open("a", encoding="utf-8", errors="replace") as opened:
            opened.write("".join(f"{secret}\n" for secret in sorted(_secrets())))
    except OSError:  # the run is over, and its folder gone
        return


def _begin(folder: Path) -> None:
    words = "-".join(Path(word).name for word in sys.orig_argv[1:4])
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', words)[:60]}-{os.getpid()}-{time.monotonic_ns()}"
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Both(folder / f"{name}.log")),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    _note(folder / f"{name}.secrets")
    atexit.register(_note, folder / f"{name}.secrets")


if _FOLDER and Path(_FOLDER).is_dir():
    _begin(Path(_FOLDER))
