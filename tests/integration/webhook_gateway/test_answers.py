"""What the gateway does for itself, beside aiohttp's server, is what aiohttp would do."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.integration.webhook_gateway.sender import PATH, Sender, event, signature

BODY = event()


def webhook(*headers: str, version: str = "1.1", body: bytes = BODY) -> bytes:
    """A whole request, as it is on the wire."""
    lines = (
        f"POST {PATH} HTTP/{version}",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Stripe-Signature: {signature(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def undated(answer: bytes) -> bytes:
    """Without the second in which it was given, of which the form is checked."""
    found, count = re.subn(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", b"Date: now", answer)
    assert count == 1
    return found


async def test_a_receipt_is_the_same_whoever_renders_it(sender: Sender) -> None:
    """It is put together once a second where the connection stays, and by aiohttp where it ends with the answer or is of HTTP/1.0."""
    both = await sender.raw(webhook() + webhook("Connection: close"))
    stays, ends = (undated(b"HTTP/1.1 " + part) for part in both.split(b"HTTP/1.1 ")[1:])
    assert stays.startswith(b"HTTP/1.1 200 OK\r\n")
    assert stays.endswith(b'\r\n\r\n{"received": true}')
    assert ends.replace(b"\r\nConnection: close", b"") == stays
    both = await sender.raw(webhook("Connection: keep-alive", version="1.0") + webhook(version="1.0"))
    stays_by_wish, old = (undated(b"HTTP/1.0 " + part) for part in both.split(b"HTTP/1.0 ")[1:])
    assert old == stays.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert stays_by_wish.replace(b"\r\nConnection: keep-alive", b"") == old != stays_by_wish


async def test_a_body_that_comes_in_pieces_is_read_as_one(sender: Sender) -> None:
    host, _, port = sender.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    sent = webhook("Expect: 100-continue", "Connection: close")
    head, begun, body = sent.partition(b"\r\n\r\n")
    writer.write(head + begun)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    for at in range(0, len(body), 50):
        writer.write(body[at : at + 50])
        await writer.drain()
    async with asyncio.timeout(30):
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    await writer.wait_closed()


async def test_what_else_is_expected_is_refused(sender: Sender) -> None:
    assert (await sender.raw(webhook("Expect: tea", "Connection: close"))).startswith(b"HTTP/1.1 417 ")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{PATH}?a=1", 200),
        (PATH.replace("stripe", "%73tripe"), 200),
        (PATH.replace("s/", "s%2F"), 404),
        (f"{PATH}/", 404),
        (f"/{PATH}", 404),
    ],
)
async def test_a_path_is_the_one_that_it_says_when_it_is_read(sender: Sender, path: str, status: int) -> None:
    """Percent signs are no way around a proxy's rules: a slash that is written as one is no slash."""
    sent = webhook("Connection: close").replace(PATH.encode(), path.encode(), 1)
    assert (await sender.raw(sent)).split(b" ", 2)[1] == str(status).encode()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_is_told_to_who_asks_for_the_head_alone(sender: Sender, path: str) -> None:
    asked = await sender.request("HEAD", path)
    assert (asked.status, asked.content) == (200, {})
    refused = await sender.request("POST", path)
    assert (refused.status, refused.headers["Allow"]) == (405, "GET,HEAD")
