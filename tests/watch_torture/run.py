"""One run: changes as fast as they are taken, faults along the way, and at the end every view beside the database."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random

from tests.watch_torture.deeds import DAY_S, Deeds
from tests.watch_torture.plan import Fault, faults
from tests.watch_torture.stage import LONGEST_S, RETENTION_DAYS, Stage
from tests.watch_torture.views import BrokenPromiseError, Client, View

CLIENTS = 4
SENDERS = 4
OVERRUN = (
    3_500  # changes that one who reads no further lets pass: more than may wait for him, and than the network holds
)
LOOK_S = 0.05
SLOWLY_S = 0.2  # between two sendings while something is broken: it is hit by changes, and not all of them pass it by

_GAPS = """
    SELECT customer_id, count(*), max(revision) FROM entitlement_changes GROUP BY customer_id
    HAVING count(*) <> max(revision) - min(revision) + 1
"""
_BEHIND = """
    SELECT c.customer_id FROM customers AS c JOIN entitlement_changes AS e USING (customer_id)
    GROUP BY c.customer_id HAVING max(e.revision) <> max(c.revision)
"""
_DUE = "SELECT count(*) FROM customers WHERE next_change_time <= to_timestamp(%s)"


@dataclass(frozen=True)
class Options:
    """How large a run is; the seed decides what happens in it."""

    seed: int
    changes: int
    customers: int
    between: tuple[int, int]  # changes between two faults


class Run:
    """The state of a run."""

    def __init__(self, options: Options, stage: Stage, say: Callable[[str], None]) -> None:
        """`say` shows progress."""
        self.options = options
        self.done: Counter[Fault] = Counter()
        self.changes = 0
        self._stage = stage
        self._say = say
        self._draw = Random(options.seed)
        self._deeds = Deeds(options.seed, options.customers)
        self._stop = asyncio.Event()
        self._whole = asyncio.Event()  # nothing is broken just now
        self._whole.set()
        self._began = time.monotonic()
        self._away: set[asyncio.Task[None]] = set()
        self.clients = [self._client(number) for number in range(CLIENTS)]

    @property
    def views(self) -> Sequence[View]:
        """Every view of every client."""
        return [view for client in self.clients for view in client.views.values()]

    def _client(self, number: int) -> Client:
        """One that watches all and two that watch some, half of them with bare stubs."""
        some = [self._draw.sample(self._deeds.names, k=min(50, len(self._deeds.names))) for _ in range(2)]
        views = [
            View(f"client {number}, {what}", ids, number % 2 == 0) for what, ids in zip("abc", ([], *some), strict=True)
        ]
        return Client(views, [server.address for server in self._stage.servers])

    async def __call__(self) -> None:
        """Run to the end.

        Raises:
            BrokenPromiseError: a view has a gap or a repeat, or is not what the database has.
        """
        await self._stage.start()
        await asyncio.gather(*(client.start() for client in self.clients))
        work = [asyncio.create_task(self._send(number)) for number in range(SENDERS)]
        work.append(asyncio.create_task(self._break()))
        await self._watch_over(work)
        await asyncio.gather(*work, *self._away)
        await self._compare()

    async def _watch_over(self, work: Sequence[asyncio.Task[None]]) -> None:
        """Count changes until there are enough and everything was broken once, and look that everybody still is at it."""
        shown = 0
        while self.changes < self.options.changes or self.done.keys() != set(Fault):
            self.changes = await self._tip()
            for client in self.clients:
                client.check()
            for task in (*work, *self._away):
                if task.done() and not task.cancelled():
                    task.result()
            if self.changes - shown >= self.options.changes / 20:
                shown = self.changes
                self._progress()
            await asyncio.sleep(LOOK_S)
        self._stop.set()

    def _progress(self) -> None:
        told = sum(view.counts["KIND_CHANGE"] for view in self.views)
        broken = sum(self.done.values()) - self.done[Fault.CLOCK_ADVANCED]
        seconds = time.monotonic() - self._began
        self._say(
            f"{self.changes:>7} changes, {told} told to {len(self.views)} views, {broken} faults ({seconds:.0f} s)"
        )

    async def _tip(self) -> int:
        rows = await asyncio.to_thread(self._stage.ask, "SELECT coalesce(max(position), 0) FROM entitlement_changes")
        tip = rows[0][0]
        assert isinstance(tip, int)
        return tip

    async def _send(self, number: int) -> None:
        while not self._stop.is_set():
            await self._stage.send(self._deeds.some(self._stage.now()), number)
            if not self._whole.is_set():
                await asyncio.sleep(SLOWLY_S)

    async def _break(self) -> None:
        """Do one thing after the other, each some changes after the one before has passed."""
        plan = faults(self._draw)
        while not self._stop.is_set():
            await self._passed(self._draw.randint(*self.options.between))
            if not self._stop.is_set():
                fault = next(plan)
                self._whole.clear()
                await self._do(fault)
                self._whole.set()
                self.done[fault] += 1

    async def _passed(self, changes: int) -> None:
        begin = self.changes
        while self.changes < begin + changes and not self._stop.is_set():  # noqa: ASYNC110 - `_watch_over` looks
            await asyncio.sleep(LOOK_S)

    async def _do(self, fault: Fault) -> None:
        server, client = self._draw.choice(self._stage.servers), self._draw.choice(self.clients)
        match fault:
            case Fault.SERVER_KILLED:
                await server.again()
            case Fault.BOTH_SERVERS_KILLED:
                await asyncio.gather(*(one.again() for one in self._stage.servers))
            case Fault.CLIENT_KILLED:
                await client.kill()
                await client.start()
            case Fault.POSTGRES_RESTARTED:
                self._stage.restart_postgres()
            case Fault.CLOCK_ADVANCED:
                self._stage.advance(self._draw.randint(1, 5 * DAY_S))
            case Fault.CLIENT_ASLEEP:
                self._beside(self._asleep(client))
            case Fault.CLIENT_AWAY:
                await self._gone(client)

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        self._away.add(asyncio.create_task(work))

    async def _asleep(self, client: Client) -> None:
        client.hold()
        await self._passed(OVERRUN)
        client.release()

    async def _gone(self, client: Client) -> None:
        """Keep a client away until its cursors are older than anything that is kept; a process that starts trims the log."""
        await client.kill()
        self._stage.advance((RETENTION_DAYS + 2) * DAY_S)
        await self._passed(self._draw.randint(*self.options.between))
        self._stage.advance((RETENTION_DAYS + 2) * DAY_S)
        await self._stage.servers[0].again()
        await client.start()

    async def _compare(self) -> None:
        """Wait until time has done what it does, and every view is as the database is.

        Raises:
            BrokenPromiseError: one is not, or the log itself has a gap.
        """
        for client in self.clients:
            client.release()
        await self._until(lambda: asyncio.to_thread(self._is_quiet), "time changes")
        wanted = await self._stage.answers(0, self._deeds.names)
        if wanted != await self._stage.answers(1, self._deeds.names):
            raise BrokenPromiseError("the servers differ")
        for statement in (_GAPS, _BEHIND):
            if rows := await asyncio.to_thread(self._stage.ask, statement):
                raise BrokenPromiseError(f"the log of changes has gaps: {rows[:5]}")
        for view in self.views:
            await self._until(lambda view=view: self._equals(view, wanted), view.name)  # type: ignore[misc] # bound now
        self.changes = await self._tip()

    def _is_quiet(self) -> bool:
        return self._stage.ask(_DUE, self._stage.now())[0][0] == 0

    async def _equals(self, view: View, wanted: dict[str, tuple[int, str]]) -> bool:
        names = view.customer_ids or [name for name, (revision, _) in wanted.items() if revision]
        return view.known == {name: wanted[name] for name in names}

    async def _until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + LONGEST_S
        while not await holds():
            for client in self.clients:
                client.check()
            if time.monotonic() > deadline:
                raise BrokenPromiseError(f"{what}: not as it must be")
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """End what still runs."""
        self._stop.set()
        for client in self.clients:
            await client.kill()
        await self._stage.close()
