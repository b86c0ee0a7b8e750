"""The receipt: it leaves at once, and is not left behind with a sender who reads nothing."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import make_mocked_request

from webhook_gateway.answers import received


async def test_a_receipt_waits_for_a_sender_who_does_not_read() -> None:
    """Else whoever sends on and reads nothing would have all of his answers kept here."""
    writer, reads, written = Mock(spec=AbstractStreamWriter), asyncio.Event(), asyncio.Event()
    sent: list[bytes] = []

    async def write(chunk: bytes) -> None:
        sent.append(chunk)
        written.set()

    async def drain() -> None:
        await reads.wait()

    writer.write, writer.drain = write, drain
    request = make_mocked_request("POST", "/webhooks/stripe", writer=writer)
    response = received(request, close=False)
    await response.prepare(request)
    answering = asyncio.create_task(response.write_eof())
    await written.wait()
    assert b"".join(sent).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not answering.done()
    reads.set()
    await answering
