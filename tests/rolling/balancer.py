"""A load balancer for TCP, as one stands before the gateways: it asks each whether it is ready, and sends connections in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Self

import aiohttp

HOST = "127.0.0.1"
LOOK_PERIOD_S = 0.05
LOOK_LIMIT_S = 2.0
CHUNK_BYTES = 65_536


class Balancer:
    """Listens on a port, and passes bytes on to whichever gateway is ready."""

    def __init__(self, port: int, ports: Sequence[int]) -> None:
        """Take our port, and those of the gateways."""
        self._port = port
        self._ready = dict.fromkeys(ports, True)
        self._turns = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refused = 0  # connections for which nobody was there: what a sender sees as a failure

    async def __aenter__(self) -> Self:
        self._tasks = {asyncio.create_task(self._look(port)) for port in self._ready}
        self._server = await asyncio.start_server(self._take, HOST, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, port: int) -> None:
        limit = aiohttp.ClientTimeout(total=LOOK_LIMIT_S)
        # A connection for each look, so that none is kept that the gateway then has to close.
        async with aiohttp.ClientSession(timeout=limit, connector=aiohttp.TCPConnector(force_close=True)) as http:
            while True:
                try:
                    async with http.get(f"http://{HOST}:{port}/readyz") as answer:
                        self._ready[port] = answer.status == 200
                except (aiohttp.ClientError, OSError, TimeoutError):
                    self._ready[port] = False
                await asyncio.sleep(LOOK_PERIOD_S)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = [port for port, is_ready in self._ready.items() if is_ready]
        if not ready:
            self.refused += 1
            writer.close()
            return
        try:
            there, away = await asyncio.open_connection(HOST, ready[next(self._turns) % len(ready)])
        except OSError:
            self.refused += 1
            writer.close()
            return
        await asyncio.gather(_pass(reader, away), _pass(there, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(CHUNK_BYTES):
            writer.write(part)
            await writer.drain()
    writer.close()
