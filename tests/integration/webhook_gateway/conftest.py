"""A real gateway on a socket of its own, in front of a real gRPC server that tests control."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import aiohttp
import pytest
from pydantic import SecretStr

from tests.integration.webhook_gateway.fulfillment import TOKEN, FulfillmentServer
from tests.integration.webhook_gateway.sender import SECRETS, Sender
from webhook_gateway.forward import Limits
from webhook_gateway.server import Server
from webhook_gateway.settings import Settings


@dataclass(frozen=True)
class Running:
    """A gateway that answers, and how to talk to it."""

    server: Server
    sender: Sender


StartGateway = Callable[..., Awaitable[Running]]


@pytest.fixture
async def fulfillment() -> AsyncIterator[FulfillmentServer]:
    """The service behind the gateway."""
    server = FulfillmentServer()
    await server.start()
    yield server
    server.open.set()
    await server.stop()


@pytest.fixture
async def start_gateway(fulfillment: FulfillmentServer) -> AsyncIterator[StartGateway]:
    """Start a gateway in front of the service, with limits or settings of the test's own."""
    async with AsyncExitStack() as stack:

        async def start(
            *, limits: Limits | None = None, token: str = TOKEN, livemode: bool = False, target: str | None = None
        ) -> Running:
            settings = Settings(
                address="127.0.0.1:0",
                ops_address="127.0.0.1:0",
                fulfillment_target=target or fulfillment.address,
                internal_token=SecretStr(token),
                webhook_secrets=SecretStr(SECRETS),
                livemode=livemode,
            )
            server = Server(settings, replace(limits or Limits(), calls=1))  # so that the tests can say what waits
            stack.push_async_callback(server.stop)
            address = await server.start()
            connector = aiohttp.TCPConnector(limit=0)  # as many connections as a test has requests
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            stack.callback(fulfillment.open.set)  # what a failed test still holds must not hold the drain
            return Running(server, Sender(session, address))

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Running:
    """A gateway as it comes."""
    return await start_gateway()


@pytest.fixture
def sender(gateway: Running) -> Sender:
    """A client of the gateway."""
    return gateway.sender
