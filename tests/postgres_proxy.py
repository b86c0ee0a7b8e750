"""A real TCP hop in front of PostgreSQL, where a test can cut connections, keep back what is sent, or lose an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from sandbox.ports import HOST

_CHUNK = 65_536
Watch = Callable[[bytes], bool]


class PostgresProxy:
    """Passes bytes on. `cut_at_request` and `cut_at_answer` are asked of each piece: true cuts its connection instead."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._port = 0
        self.flowing = asyncio.Event()  # cleared: nothing passes, in neither direction
        self.flowing.set()
        self.cut_at_request: Watch = _never
        self.cut_at_answer: Watch = _never
        self.connections = 0  # so far
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    @property
    def url(self) -> str:
        """The libpq URL of the database through here."""
        return (
            self._url.replace(f":{urlsplit(self._url).port}/", f":{self._port}/")
            + "?sslmode=disable&gssencmode=disable"
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[PostgresProxy]:
        """Listen until the block ends."""
        server = await asyncio.start_server(self._serve, HOST, 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.flowing.set()
            server.close()
            for writer in self._open:
                writer.transport.abort()
            await asyncio.gather(*(task for task in self._open.values() if task), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open[writer] = asyncio.current_task()
        upstream_reader, upstream_writer = await asyncio.open_connection(HOST, urlsplit(self._url).port)
        ways = {
            asyncio.create_task(self._pass(reader, upstream_writer, self._cuts_request)),
            asyncio.create_task(self._pass(upstream_reader, writer, self._cuts_answer)),
        }
        _, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in left:
            way.cancel()
        await asyncio.wait(ways)
        for one in (writer, upstream_writer):
            one.transport.abort()
        del self._open[writer]

    def _cuts_request(self, piece: bytes) -> bool:
        return self.cut_at_request(piece)  # as it is by then

    def _cuts_answer(self, piece: bytes) -> bool:
        return self.cut_at_answer(piece)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_at: Watch) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):
            while piece := await reader.read(_CHUNK):
                await self.flowing.wait()
                if cut_at(piece):
                    return
                writer.write(piece)
                await writer.drain()


def _never(_piece: bytes) -> bool:
    return False
