"""The program as it is started and stopped in production."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from tests.integration.webhook_gateway.fulfillment import TOKEN, FulfillmentServer
from tests.integration.webhook_gateway.sender import PATH, SECRETS, Sender, event, signature

LONG_S = 30


@dataclass(frozen=True)
class Program:
    """A running gateway program."""

    process: asyncio.subprocess.Process
    address: str  # host:port

    async def wait(self) -> tuple[int, list[dict[str, object]]]:
        """Wait for its end; give the exit code and the rest of its log."""
        async with asyncio.timeout(LONG_S):
            _, log = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


async def _start(environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "webhook_gateway",
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


def _environment(fulfillment: FulfillmentServer, address: str = "127.0.0.1:0") -> dict[str, str]:
    return {
        "GATEWAY_ADDRESS": address,
        "GATEWAY_FULFILLMENT_TARGET": fulfillment.address,
        "GATEWAY_INTERNAL_TOKEN": TOKEN,
        "GATEWAY_WEBHOOK_SECRETS": SECRETS,
    }


@pytest.fixture
async def start(fulfillment: FulfillmentServer) -> AsyncIterator[Callable[[], Awaitable[Program]]]:
    """Start the program in front of the service, on a free port."""
    async with AsyncExitStack() as stack:

        async def start_one() -> Program:
            process = await _start(_environment(fulfillment))
            stack.push_async_callback(_end, process)
            assert process.stderr is not None
            async with asyncio.timeout(LONG_S):
                first_line = json.loads(await process.stderr.readline())
            assert first_line["event"] == "listening"
            return Program(process, first_line["address"])

        yield start_one


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.communicate()


class BegunRequest:
    """One webhook on a connection of its own, whose handler is known to have begun."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def begin(cls, address: str, body: bytes) -> BegunRequest:
        """Send the headers, and wait for "100 Continue", which the handling sends."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nStripe-Signature: {signature(body)}\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        return cls(reader, writer)

    async def send(self, part: bytes) -> None:
        """Send a part of the body."""
        self._writer.write(part)
        await self._writer.drain()

    async def finish(self) -> bytes:
        """Read the answer, up to the end of the connection."""
        try:
            async with asyncio.timeout(LONG_S):
                return await self._reader.read()
        finally:
            self._writer.close()
            await self._writer.wait_closed()


async def _refuses_connections(address: str) -> None:
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                return
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_answers_what_was_begun_and_takes_no_more(
    start: Callable[[], Awaitable[Program]], fulfillment: FulfillmentServer, number: signal.Signals
) -> None:
    program = await start()
    fulfillment.open.clear()
    bodies = [event(f"evt_{n}") for n in range(20)]
    requests = [await BegunRequest.begin(program.address, body) for body in bodies]
    for request, body in zip(requests, bodies, strict=True):
        await request.send(body)
    await fulfillment.begun.wait()
    program.process.send_signal(number)
    await _refuses_connections(program.address)
    fulfillment.open.set()
    answers = await asyncio.gather(*(request.finish() for request in requests))
    assert [answer.split(b"\r\n", 1)[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert sorted(fulfillment.committed) == sorted(bodies)
    code, log = await program.wait()
    assert code == 0
    assert log[-1]["event"] == "stopped"


async def test_a_drain_lets_a_body_arrive_to_its_end(
    start: Callable[[], Awaitable[Program]], fulfillment: FulfillmentServer
) -> None:
    program = await start()
    body = event()
    request = await BegunRequest.begin(program.address, body)
    await request.send(body[:20])
    program.process.terminate()
    await _refuses_connections(program.address)
    await request.send(body[20:])
    assert (await request.finish()).startswith(b"HTTP/1.1 200 OK")
    assert fulfillment.committed == [body]
    assert (await program.wait())[0] == 0


async def test_an_idle_connection_does_not_hold_the_drain(start: Callable[[], Awaitable[Program]]) -> None:
    program = await start()
    async with aiohttp.ClientSession() as session:
        assert (await Sender(session, program.address).post(event())).status == 200
        program.process.terminate()
        code, _ = await program.wait()
    assert code == 0


async def test_the_log_names_events_and_quotes_nothing(start: Callable[[], Awaitable[Program]]) -> None:
    program = await start()
    async with aiohttp.ClientSession() as session:
        sender = Sender(session, program.address)
        good = event().replace(b"sub_1", b"jenny@example.com")
        assert (await sender.post(good)).status == 200
        assert (await sender.post(good, Stripe_Signature="t=1,v1=jenny@example.com")).status == 400
        await sender.raw(b"jenny@example.com\r\n\r\n")
    program.process.terminate()
    _, log = await program.wait()
    taken, refused, *_ = log
    assert (taken["event"], taken["event_id"], taken["secret"]) == ("webhook_taken", "evt_1", "main")
    assert (refused["event"], refused["code"], refused["status"]) == ("webhook_refused", "signature_mismatch", 400)
    assert "event_id" not in refused  # nothing of a body that nobody vouches for
    written = json.dumps(log)
    for private in ("jenny", "whsec_", TOKEN, "127.0.0.1"):
        assert private not in written


async def test_what_is_missing_is_said_in_one_go() -> None:
    process = await _start({"GATEWAY_ADDRESS": "nowhere"})
    async with asyncio.timeout(LONG_S):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().splitlines() == [
        "webhook-gateway cannot start:",
        "GATEWAY_ADDRESS: must be host:port, like 127.0.0.1:8080 or [::1]:8080",
        "GATEWAY_INTERNAL_TOKEN: is not set",
        "GATEWAY_WEBHOOK_SECRETS: is not set",
    ]


async def test_a_port_in_use_is_one_clear_sentence(fulfillment: FulfillmentServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = await _start(_environment(fulfillment, address))
        async with asyncio.timeout(LONG_S):
            _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == f"webhook-gateway cannot listen on {address}: Address already in use\n"
