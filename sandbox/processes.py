"""Child processes: started with a tether, logged to a file, asked whether they answer, stopped for good."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

_TETHER = Path(__file__).with_name("tether.py")


def tethered(
    argv: Sequence[str], *, death_signal: Signals, user: tuple[int, int] | None = None, ignore_interrupt: bool = False
) -> list[str]:
    """Give the command that runs `argv` tied to the calling thread: it gets `death_signal` when that one ends (Linux).

    `user` is the (user id, group id) to become; only root may.
    """
    options = [f"--parent={os.getpid()}", f"--signal={int(death_signal)}"]
    if user is not None:
        options += [f"--user={user[0]}", f"--group={user[1]}"]
    if ignore_interrupt:
        options.append("--ignore-interrupt")
    return [sys.executable, "-I", "-S", str(_TETHER), *options, "--", *argv]
