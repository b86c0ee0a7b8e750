"""The programs under measurement: processes of their own, their logs in files, their use of the processor read from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

from benchmarks.errors import BenchmarkError
from sandbox.processes import tethered

_READY_TIMEOUT_S = 240.0  # three programs that start on a crowded machine
_STOP_TIMEOUT_S = 25.0
_POLL_S = 0.05
_ROOT = Path(__file__).parent.parent
_FOREIGN = ("BILLING_", "GATEWAY_", "STRIPE_", "PG", "BENCH_")


@dataclass
class Running:
    """A program that runs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def cpu_s(self) -> float:
        """Give the seconds of processor time that it has used so far (Linux; 0 elsewhere)."""
        return cpu_s(self.process.pid)

    def stop(self) -> None:
        """Ask it to stop, and make it when it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start(
    name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path, ready: Callable[[], bool]
) -> Running:
    """Start a program, tied to this thread, and come back when it answers.

    Raises:
        BenchmarkError: it ends, or does not answer within four minutes; with the end of its log.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            tethered(argv, death_signal=SIGTERM),
            cwd=_ROOT,
            env={**kept, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    running = Running(name, process, log)
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            running.stop()
            raise BenchmarkError(f"{name} does not answer; its last words:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(_POLL_S)
    return running


def python(*arguments: str) -> list[str]:
    """Give the command of one of our own modules."""
    return [sys.executable, "-m", *arguments]


def cpu_s(pid: int) -> float:
    """Give the processor time, in seconds, of a process and of the children that it has waited for (Linux; 0 elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def cpu_of_tree_s(pid: int) -> float:
    """Give the processor time of a process and its living children: PostgreSQL's server and its backends."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return cpu_s(pid) + sum(cpu_s(int(child)) for child in children)
