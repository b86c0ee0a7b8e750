"""A real TCP hop that forgets connections without a word, as a NAT, a load balancer or a firewall does with those that are quiet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sandbox.ports import HOST

FRAME_HEADER_BYTES = 9  # https://www.rfc-editor.org/rfc/rfc9113#section-4.1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PING, ACK = 6, 1


class Forgetful:
    """Passes bytes on until it forgets a connection: from then on it takes what is sent, and nobody hears of it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._forgotten = 0
        self.connections = 0
        self.given_up = 0  # of these, by their callers
        self.pings = 0  # of callers
        self.address = ""

    def forget(self) -> None:
        """Forget every connection that there is. New ones are passed on."""
        self._forgotten = self.connections

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Forgetful]:
        """Listen until the block ends."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(task) if (task := asyncio.current_task()) else None
            with suppress(asyncio.CancelledError):  # at the end of the test
                await self._serve(reader, writer)

        listening = await asyncio.start_server(serve, HOST, 0)
        host, port = listening.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            listening.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        own = self.connections
        far_reader, far_writer = await asyncio.open_connection(HOST, self._to)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(own, reader, far_writer, self._count))
                both.create_task(self._pass(own, far_reader, writer, lambda _kind, _flags: None))
        finally:
            for one in (writer, far_writer):
                one.transport.abort()

    async def _pass(
        self,
        own: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        see: Callable[[int, int], None],
    ) -> None:
        seen = b""
        with suppress(ConnectionError):
            while piece := await reader.read(65_536):
                if own > self._forgotten:
                    writer.write(piece)
                seen = (seen + piece).removeprefix(PREFACE)
                while len(seen) >= (end := FRAME_HEADER_BYTES + int.from_bytes(seen[:3])):
                    see(seen[3], seen[4])
                    seen = seen[end:]
            if own > self._forgotten:
                writer.close()
        self.given_up += see == self._count

    def _count(self, kind: int, flags: int) -> None:
        self.pings += kind == PING and not flags & ACK
