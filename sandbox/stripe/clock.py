"""The account's clock: the machine's plus an offset that only grows, kept in the file that the billing service reads too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from billing_service.clock import MAX_OFFSET_S, read_offset


class Clock:
    """Seconds since the epoch, in the sandbox's time."""

    def __init__(self, now: Callable[[], float], file: Path | None = None) -> None:
        """Take the machine's clock and where the offset is kept; without a file it is this process's alone.

        Raises ValueError when the file is no clock.
        """
        self._now = now
        self._file = file
        self.offset_s = read_offset(file) if file else 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self._now() + self.offset_s

    def reach(self, moment: float) -> None:
        """Move forward so that it is `moment`, never back. Whoever reads the file sees it before any event of that time."""
        offset_s = min(moment - self._now(), MAX_OFFSET_S)
        if offset_s <= self.offset_s:
            return
        self.offset_s = offset_s
        if self._file is not None:
            self._write(self._file)

    def _write(self, file: Path) -> None:
        fresh = file.with_name(f"{file.name}.{os.getpid()}.new")
        fresh.write_text(f"{self.offset_s:.6f}\n")
        fresh.replace(file)
