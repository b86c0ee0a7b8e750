"""Becomes another program that dies with whoever started it: `python -I -S tether.py --parent PID --signal N -- argv...`.

A launcher that is killed with SIGKILL cannot stop its children. On Linux the kernel can: `prctl(PR_SET_PDEATHSIG)` sends the
child a signal when the thread that started it ends. The setting is cleared when a process changes its user (prctl(2)), so
the change of user happens here too, before it. Run as a program of its own because what `subprocess` runs between fork and
exec is not safe beside threads. Elsewhere than on Linux the tether is missing, and the next start clears up instead.

Imports nothing of the project: with -S it starts in about 15 ms.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tether")
    parser.add_argument("--parent", type=int, required=True, help="process id of the one who starts this")
    parser.add_argument("--signal", type=int, required=True, help="the signal to get when that one ends")
    parser.add_argument("--user", type=int, help="user id to become; needs root")
    parser.add_argument("--group", type=int, help="group id to become; needs root")
    parser.add_argument("--ignore-interrupt", action="store_true", help="leave Ctrl-C to the parent")
    parser.add_argument("argv", nargs="+")
    return parser.parse_args()


def main() -> None:
    """Change user, tie the tether, and become the program."""
    options = _options()
    if options.user is not None:
        os.setgroups([])
        os.setgid(options.group)
        os.setuid(options.user)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, options.signal, 0, 0, 0)
        if os.getppid() != options.parent:  # it ended before the tether was tied
            sys.exit(0)
    if options.ignore_interrupt:
        # A blocked signal stays blocked across exec, whatever handler the program sets; an ignored one would not.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execvp(options.argv[0], options.argv)  # noqa: S606 - becoming another program is what this one is for


if __name__ == "__main__":
    main()
