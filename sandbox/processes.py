"""Child processes: started with a tether, their words passed on to our standard error, asked whether they answer, stopped."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM, Signals

from sandbox.errors import SandboxError
from sandbox.ports import HOST

_TETHER = Path(__file__).with_name("tether.py")
_ROOT = Path(__file__).parent.parent
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0  # above the time that the programs themselves give to calls in flight
_POLL_S = 0.05
_LINES_KEPT = 40
_LINE_LIMIT = 4096  # characters of one line that are passed on at once
_PROBE_TIMEOUT_S = 2.0
_NAME_WIDTH = 10


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


def answers(port: int, path: str) -> bool:
    """Say whether GET of this path on a loopback port is answered with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Child:
    """One Python program of the sandbox: `python -m MODULE ARGUMENTS`. Can be started again after it stopped.

    It stays in our process group and leaves Ctrl-C to us, so that everything stops in order.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        """Take the name to show, the module and its arguments, what to add to the environment, and how to see that it answers."""
        self.name = name
        self._argv = tuple(argv)
        self._environment = dict(environment or {})
        self._ready = ready
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def poll(self) -> int | None:
        """Give its exit code once it has ended; None while it runs or was never started."""
        return self._process.poll() if self._process else None

    def last_log_lines(self) -> str:
        """Give the last lines it wrote."""
        if self._reader and self.poll() is not None:
            self._reader.join(_PROBE_TIMEOUT_S)
        return "\n".join(self._lines)

    def start(self) -> None:
        """Start the process; does not wait for it to answer."""
        self._lines.clear()
        self._process = subprocess.Popen(
            tethered([sys.executable, "-m", *self._argv], death_signal=SIGTERM, ignore_interrupt=True),
            cwd=_ROOT,
            env={**_clean_environment(), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o077,  # what they keep is their owner's alone
        )
        self._reader = threading.Thread(
            target=self._pass_on, args=(self._process,), name=f"log of {self.name}", daemon=True
        )
        self._reader.start()

    def wait_ready(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Come back when it answers, or when `give_up` says so.

        Raises:
            SandboxError: it ended, or does not answer within a minute; with its last lines.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not give_up():
            if self.poll() is not None:
                raise SandboxError(self.obituary())
            if self._ready is None or self._ready():
                return
            if time.monotonic() > deadline:
                raise SandboxError(f"The {self.name} does not answer; its last lines:\n{self.last_log_lines()}")
            time.sleep(_POLL_S)

    def wait_done(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Come back when a program that ends by itself has ended well, or when `give_up` says so.

        Raises:
            SandboxError: it failed, or runs for more than a minute; with its last lines.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while self.poll() is None and not give_up():
            if time.monotonic() > deadline:
                raise SandboxError(f"The {self.name} does not end; its last lines:\n{self.last_log_lines()}")
            time.sleep(_POLL_S)
        if self.poll():
            raise SandboxError(self.obituary())

    def obituary(self) -> str:
        """Say with which code it ended, and its last words."""
        return f"The {self.name} ended (exit code {self.poll()}); its last lines:\n{self.last_log_lines()}"

    def stop(self) -> None:
        """Ask it to stop, and make it when it does not; come back when it is gone. Twice is fine."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._reader is not None:
            self._reader.join(_PROBE_TIMEOUT_S)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL), and come back when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            while line := lines.readline(_LINE_LIMIT):
                text = line.rstrip("\n")
                self._lines.append(text)
                print(f"{self.name:<{_NAME_WIDTH}} | {text}", file=sys.stderr, flush=True)


def _clean_environment() -> dict[str, str]:
    """Give our environment without the settings of another installation, and with no proxy before the loopback."""
    foreign = ("BILLING_", "GATEWAY_", "STOREFRONT_", "STRIPE_", "PG", "OTEL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (environment.get(name), HOST, "localhost")))
    return {**environment, "PYTHONUNBUFFERED": "1"}
