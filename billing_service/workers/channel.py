"""What a parent and a worker say to each other, over a pair of sockets: lines of JSON.

The worker says once that it listens; then it answers questions. When one of them ends, so does the line, which tells the other. No
port and no file: nobody else can ask, and there is nothing to clear up.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, Self

from billing_service.address import Address
from billing_service.ops import Health, Sources
from billing_service.readiness import Readiness

MAX_LINE_BYTES: Final = 8 * 1024 * 1024  # a page of numbers has some 100 KiB
ANSWER_LIMIT_S: Final = 5.0


class Question(StrEnum):
    """What a parent asks."""

    HEALTH = "health"
    METRICS = "metrics"


class SilentError(Exception):
    """The worker does not answer, or has ended."""


class ToParent:
    """A worker's end. It takes the place of the health page: the parent shows it."""

    def __init__(self, end: socket.socket, gone: Callable[[], None]) -> None:
        """Take the socket, and what to do when the parent has ended."""
        self._end = end
        self._gone = gone
        self._sources: Sources | None = None
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    def show(self, sources: Sources) -> Self:
        """Take what the answers are made of."""
        self._sources = sources
        return self

    async def start(self, address: Address, setting: str) -> Address:
        """Begin to answer; the address is the parent's."""
        del setting
        reader, self._writer = await asyncio.open_connection(sock=self._end, limit=MAX_LINE_BYTES)
        self._task = asyncio.create_task(self._answer_all(reader, self._writer), name="parent")
        return address

    def listening(self) -> None:
        """Tell the parent that calls are taken."""
        if self._writer is not None:
            self._writer.write(_line({"listening": True}))

    async def stop(self) -> None:
        """Answer no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._writer is not None:
            self._writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                asked = json.loads(line)
                writer.write(_line({"number": asked["number"], "answer": await self._answer(asked["question"])}))
                await writer.drain()
        self._gone()

    async def _answer(self, question: str) -> Any:
        if self._sources is None:
            return None
        if question == Question.METRICS:
            return (await self._sources.metrics()).decode()
        health = await self._sources.health()
        return {"checks": dict(health.readiness.checks), "warnings": list(health.warnings)}


class ToWorker:
    """A parent's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take both directions; `open` makes them."""
        self._reader, self._writer = reader, writer
        self._asking = asyncio.Lock()
        self._number = 0

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Take a socket."""
        return cls(*await asyncio.open_connection(sock=end, limit=MAX_LINE_BYTES))

    async def listening(self) -> None:
        """Wait until the worker says that it listens; the caller bounds it.

        Raises:
            SilentError: it ended before.
        """
        await self._line()

    async def health(self) -> Health:
        """Ask how it is.

        Raises:
            SilentError: there is no answer.
        """
        said = await self._ask(Question.HEALTH)
        return Health(Readiness(said["checks"]), said["warnings"])

    async def metrics(self) -> bytes:
        """Ask for its numbers.

        Raises:
            SilentError: there is no answer.
        """
        page: str = await self._ask(Question.METRICS)
        return page.encode()

    def close(self) -> None:
        """End the line."""
        self._writer.close()

    async def _ask(self, question: Question) -> Any:
        """Ask, and wait for the answer to this question: one to an earlier question, which came too late, is passed over."""
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S), self._asking:
                self._number += 1
                self._writer.write(_line({"number": self._number, "question": question}))
                while (said := await self._line())["number"] != self._number:
                    pass
                return said["answer"]
        except TimeoutError:
            raise SilentError("the worker does not answer") from None

    async def _line(self) -> Any:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise SilentError("the worker has ended")
        return json.loads(line)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
