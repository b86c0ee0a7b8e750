"""One worker, as its parent keeps it: a process that is started, watched and ended."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from typing import Final

import structlog

from billing_service.ops import Health
from billing_service.readiness import Readiness
from billing_service.workers.channel import SilentError, ToWorker

START_LIMIT_S: Final = (
    180.0  # from the start of the process until it listens: two seconds, and on a crowded machine more
)
LOOK_PERIOD_S: Final = 1.0
MOST_SILENT_LOOKS: Final = 12  # each of 5 s: after a minute of silence it is stuck for good

_log = structlog.stdlib.get_logger(__name__)


class Worker:
    """A process that answers calls, and its successors: one at a time."""

    def __init__(self, index: int, core: int | None, environment: Mapping[str, str]) -> None:
        """Take its number, the core that it is to keep to, and what its environment is to have beside ours."""
        self.index = index
        self._core = core
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._link: ToWorker | None = None
        self.listens = asyncio.Event()
        self._answers = False  # whether this process listens, and not one before it: until then its line is waited on
        self.health = _not_ready("starting")

    async def live(self, stop: asyncio.Event) -> int:
        """Start a process and give its exit code once it has ended. Set `stop` ends it at once, however new it is."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command(theirs.fileno()),
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self._link = await ToWorker.open(ours)
        if stop.is_set():
            self.terminate()
        watching = asyncio.create_task(self._watch(self._link), name=f"watch of worker {self.index}")
        try:
            return await self._process.wait()
        finally:
            self.health = _not_ready("does not run")
            self._answers = False
            watching.cancel()
            await asyncio.wait({watching})
            self._link.close()
            self._process = self._link = None

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        if self._process is not None:
            self._process.kill()

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._process.pid if self._process is not None else None

    async def metrics(self) -> bytes:
        """Give its numbers; nothing where it does not answer."""
        if self._link is None or not self._answers:
            return b""
        try:
            return await self._link.metrics()
        except SilentError:
            return b""

    def _command(self, channel: int) -> list[str]:
        core = [] if self._core is None else [f"--core={self._core}"]
        return [sys.executable, "-m", "billing_service.workers", f"--channel={channel}", f"--index={self.index}", *core]

    async def _watch(self, link: ToWorker) -> None:
        """Look after it until it ends; one that is stuck is killed, and its end is seen as any other."""
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await link.listening()
            self._answers = True
            self.listens.set()
            await self._look(link)
        except SilentError:
            return
        except TimeoutError:
            pass
        _log.error("worker_stuck", worker=self.index)
        self.kill()

    async def _look(self, link: ToWorker) -> None:
        """Ask how it is, again and again; come back when it has not answered for a minute."""
        silent = 0
        while silent < MOST_SILENT_LOOKS:
            try:
                self.health, silent = await link.health(), 0
            except SilentError:
                self.health, silent = _not_ready("does not answer"), silent + 1
            await asyncio.sleep(LOOK_PERIOD_S)


def _not_ready(reason: str) -> Health:
    return Health(Readiness({"process": reason}), [])
