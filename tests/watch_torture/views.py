"""What clients know, strict about gaps and repeats; it outlives the processes that feed it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_KILL_S = 30.0


class BrokenPromiseError(AssertionError):
    """A gap, a repeat, or something older than what was told before."""


@dataclass
class View:
    """One caller's knowledge."""

    name: str
    customer_ids: Collection[str]  # none: all
    by_hand: bool
    cursor: str = ""
    known: dict[str, tuple[int, str]] = field(default_factory=dict)  # revision, and what it gives
    seen: dict[str, int] = field(default_factory=dict)  # the highest revision ever told
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, kind: str, cursor: str, about: tuple[str, int, str] | None) -> None:
        """Apply one line.

        Raises:
            BrokenPromiseError: it cannot follow what is known.
        """
        if kind == "BROKE":
            self.counts[cursor] += 1
            return
        self.counts[kind] += 1
        if kind == "KIND_SNAPSHOT_BEGIN":
            self.known.clear()
            self.cursor = ""
        if about is not None:
            self._apply(kind, *about)
        self.cursor = cursor or self.cursor

    def _apply(self, kind: str, customer_id: str, revision: int, told: str) -> None:
        if kind == "KIND_CHANGE":
            before = self.known.get(customer_id, (0, ""))[0]
            if revision != before + 1:
                raise BrokenPromiseError(f"{self.name}: {customer_id} goes from revision {before} to {revision}")
        elif revision < self.seen.get(customer_id, 0):
            raise BrokenPromiseError(
                f"{self.name}: a snapshot has {customer_id} at {revision}, which is older than told"
            )
        elif customer_id in self.known:
            raise BrokenPromiseError(f"{self.name}: a snapshot has {customer_id} twice")
        self.known[customer_id] = (revision, told)
        self.seen[customer_id] = max(revision, self.seen.get(customer_id, 0))


class Client:
    """A client process and the views that it feeds. What a killed one has not written down, nobody knows."""

    def __init__(self, views: Sequence[View], addresses: Sequence[str]) -> None:
        """Nothing runs before `start`."""
        self.views = {view.name: view for view in views}
        self._addresses = list(addresses)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin from where the views are."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.watch_torture.client"),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        follow = [
            {"name": v.name, "customer_ids": sorted(v.customer_ids), "by_hand": v.by_hand, "cursor": v.cursor}
            for v in self.views.values()
        ]
        self._say(json.dumps({"addresses": self._addresses, "follow": follow}))
        self._reading = asyncio.create_task(self._read(self._process))

    async def kill(self) -> None:
        """Kill it, and take what it had written down."""
        if self._process is None or self._reading is None:
            return
        process, self._process = self._process, None
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), _KILL_S)
        await self._reading

    def hold(self) -> None:
        """Have it read no further."""
        self._say("hold")

    def release(self) -> None:
        """Have it read on."""
        self._say("release")

    def check(self) -> None:
        """Raise what went wrong while reading."""
        if self._reading is not None and self._reading.done():
            self._reading.result()
            if self._process is not None:
                raise BrokenPromiseError("a client ended by itself")

    def _say(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(f"{line}\n".encode())

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while (line := await process.stdout.readline()).endswith(b"\n"):  # a line that was cut off was never known
            name, kind, cursor, about = json.loads(line)
            self.views[name].take(kind, cursor, tuple(about) if about else None)
