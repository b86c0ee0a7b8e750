"""The one clock of the process: the machine's, or in the sandbox the machine's plus an offset that the stand-in Stripe sets.

The offset stands in a small file, so that the service and the stand-in agree on the time and both can be restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

MAX_OFFSET_S: Final = 100 * 366 * 24 * 3600  # a century: far beyond any test, and every sum stays a time
_MAX_FILE_BYTES: Final = 64


def utc_now() -> datetime:
    """Give the machine's time."""
    return datetime.now(UTC)


def clock_of(sandbox_clock: Path | None) -> Callable[[], datetime]:
    """Give the clock that the settings ask for: the machine's, or the sandbox's shared one.

    Raises:
        ValueError: the file is there and is no clock.
    """
    return utc_now if sandbox_clock is None else SandboxClock(sandbox_clock)


def read_offset(file: Path) -> float:
    """Read how far the sandbox's clock is ahead, in seconds; a file that is not there yet says nothing.

    Raises:
        ValueError: the file is no clock.
    """
    try:
        with file.open("rb") as opened:
            offset_s = float(opened.read(_MAX_FILE_BYTES))
    except FileNotFoundError:
        return 0.0
    except ValueError:
        raise ValueError("must be a sandbox clock: a file with a number of seconds") from None
    if not 0 <= offset_s <= MAX_OFFSET_S:
        raise ValueError("must be a sandbox clock: a number of seconds from 0 to a century")
    return offset_s


class SandboxClock:
    """The machine's time plus the offset in a file, which is read again whenever it was replaced."""

    def __init__(self, file: Path) -> None:
        """Take the file, which need not be there yet. Raises ValueError when it is no clock."""
        self._file = file
        self._seen = self._stamp()
        self._offset = timedelta(seconds=read_offset(file))

    def __call__(self) -> datetime:
        """Give the sandbox's time. What cannot be read leaves the offset as it was: time does not jump back."""
        stamp = self._stamp()
        if stamp != self._seen:
            try:
                self._offset = max(self._offset, timedelta(seconds=read_offset(self._file)))
            except (OSError, ValueError):
                pass
            else:
                self._seen = stamp
        return utc_now() + self._offset

    def _stamp(self) -> tuple[int, int, int] | None:
        """Tell one version of the file from another; it is replaced as a whole, so that the inode changes too."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
