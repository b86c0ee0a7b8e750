"""The parent of several workers: it answers no call. It holds the addresses, starts workers and starts them again, passes the
end on to them, and shows the health and the numbers of all.

It never imports gRPC, and workers are processes of their own from the start: gRPC's threads do not survive a fork.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from billing_service.address import Address, Addresses, ListenError, check_free, listen_problem
from billing_service.ops import Health, OpsListener, Sources
from billing_service.readiness import OK, STOPPING, Readiness
from billing_service.settings import PREFIX, Settings
from billing_service.workers.cores import allowed_cores, cores_for
from billing_service.workers.numbers import merged
from billing_service.workers.restarts import Restarts
from billing_service.workers.worker import Worker

# More than a worker's own drain takes, and less than whoever ends us gives; a test compares.
STOP_LIMIT_S: Final = 27.0
PARENT: Final = "parent"
EXIT_FAILURE: Final = 1
_ASKED_TO: Final = frozenset({0, -signal.SIGTERM, -signal.SIGINT})  # the latter before it could listen to them

_log = structlog.stdlib.get_logger("billing_service")


class Supervisor:
    """The workers of one program."""

    def __init__(self, settings: Settings) -> None:
        """Take the checked settings. Needs a running event loop."""
        self._settings = settings
        self._workers: Sequence[Worker] = ()
        self._stopping = asyncio.Event()
        self._code = 0  # what the program is to end with
        self._ops = OpsListener(Sources(self._health, self._numbers))
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        ready = Gauge("billing_ready", "1 while calls can be answered.", registry=self._registry)
        ready.set_function(lambda: float(self._readiness().ready))
        self._deaths = Counter("billing_worker_deaths", "Workers that ended unasked.", registry=self._registry)

    async def serve(self, stop: asyncio.Event, listening: Callable[[Addresses], None]) -> int:
        """Serve until `stop` is set, then end the workers; give the exit code. `listening` is told once all workers listen.

        Raises:
            ListenError: an address is in use.
        """
        settings = self._settings
        with (
            _held(settings.grpc_address, "BILLING_GRPC_ADDRESS") as grpc,
            _held(settings.internal_address, "BILLING_INTERNAL_ADDRESS") as internal,
        ):
            ops = await self._ops.start(settings.ops_address, "BILLING_OPS_ADDRESS")
            self._workers = self._made(grpc, internal)
            beside = {
                asyncio.create_task(self._pass_on(stop), name="stop"),
                asyncio.create_task(self._tell(listening, Addresses(grpc, internal, ops)), name="listening"),
            }
            try:
                await self._run()
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.wait(beside)
                await self._ops.stop()
        return self._code

    def _made(self, grpc: Address, internal: Address) -> Sequence[Worker]:
        """Make the workers; they take their settings from the environment, as we did, but for the ports that are ours now."""
        environment = {f"{PREFIX}GRPC_ADDRESS": str(grpc), f"{PREFIX}INTERNAL_ADDRESS": str(internal)}
        count = self._settings.workers
        cores = cores_for(count, allowed_cores())
        if None in cores:
            _log.info("workers_unpinned", workers=count, meaning="not as many cores as workers; taskset names them")
        return [Worker(index, core, environment) for index, core in enumerate(cores)]

    async def _run(self) -> None:
        """Keep every worker until the end, and give them a bounded time for it."""
        keepers = {asyncio.create_task(self._keep(worker), name=f"worker {worker.index}") for worker in self._workers}
        await self._stopping.wait()
        for worker in self._workers:
            worker.terminate()
        limit_s = STOP_LIMIT_S + self._settings.drain_delay_s
        _, late = await asyncio.wait(keepers, timeout=limit_s)
        if late:
            _log.warning("drain_incomplete", waited_s=limit_s, workers=len(late))
            for worker in self._workers:
                worker.kill()
        await asyncio.gather(*keepers)

    async def _keep(self, worker: Worker) -> None:
        """Start a worker whenever there is none, until the end."""
        restarts = Restarts()
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                code = await worker.live(self._stopping)
            except OSError as error:  # no process, no descriptor to be had: tried again like one that ended
                _log.error("worker_not_started", worker=worker.index, exc_info=error)
                code = EXIT_FAILURE
            if self._stopping.is_set():
                self._code = self._code or (0 if code in _ASKED_TO else EXIT_FAILURE)
                return
            self._deaths.inc()
            # One that ends before all have begun ends the start, as with a single process.
            begun = all(one.listens.is_set() for one in self._workers)
            pause_s = restarts.pause_after(code, loop.time() - began) if begun else None
            _log.error("worker_died", worker=worker.index, code=code, starts_again_in_s=pause_s)
            if pause_s is None:
                self._give_up(code)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    def _give_up(self, code: int) -> None:
        self._code = code if code > 0 else EXIT_FAILURE
        self._stopping.set()

    async def _pass_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping.set()

    async def _tell(self, listening: Callable[[Addresses], None], addresses: Addresses) -> None:
        await asyncio.gather(*(worker.listens.wait() for worker in self._workers))
        listening(addresses)

    async def _health(self) -> Health:
        warnings = dict.fromkeys(warning for worker in self._workers for warning in worker.health.warnings)
        return Health(self._readiness(), list(warnings))

    def _readiness(self) -> Readiness:
        """Ready only when all are; what is not says of which worker that is."""
        if self._stopping.is_set():
            return STOPPING
        checks: dict[str, str] = {"workers": OK if self._workers else "starting"}
        for worker in self._workers:
            for name, found in worker.health.readiness.checks.items():
                if checks.get(name, OK) == OK:
                    checks[name] = OK if found == OK else f"worker {worker.index}: {found}"
        return Readiness(checks)

    async def _numbers(self) -> bytes:
        pages = await asyncio.gather(*(worker.metrics() for worker in self._workers))
        names = [PARENT, *(str(worker.index) for worker in self._workers)]
        return merged(dict(zip(names, (generate_latest(self._registry), *pages), strict=True)))


@contextmanager
def _held(address: Address, setting: str) -> Iterator[Address]:
    """Hold an address for the workers, and give it with the port that was taken.

    A socket that is bound and does not listen gets no connection, but nobody else gets the port while no worker has it.

    Raises:
        ListenError: it is in use, or not ours.
    """
    check_free(address, setting)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    port = address.port
    with ExitStack() as held:
        for family, kind, protocol, _, where in found:
            one = held.enter_context(socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                one.bind((where[0], port, *where[2:]))
            except OSError as error:
                raise ListenError(listen_problem(address, setting, error)) from None
            port = one.getsockname()[1]
        yield Address(address.host, port)
