"""One sandbox per worker for the tests that leave it running; the others start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import aiohttp
import grpc
import pytest

from sandbox.channel import credentials
from tests.acceptance.world import Sandbox, World, running

_numbers = count(1)


@pytest.fixture(scope="session")
def sandbox(reachable_folder: Path) -> Iterator[Sandbox]:
    """A running `python -m sandbox --json --ports 0`, whole, with its storefront."""
    with running(reachable_folder / "sandbox", log=reachable_folder / "sandbox.log") as started:
        yield started


@pytest.fixture
async def world(sandbox: Sandbox) -> AsyncIterator[World]:
    """The world around the shared sandbox."""
    async with (
        grpc.aio.secure_channel(sandbox["grpc"], credentials(sandbox["grpc_token"])) as channel,
        aiohttp.ClientSession() as http,
    ):
        yield World(sandbox.addresses, channel, http)


@pytest.fixture
def customer_id(request: pytest.FixtureRequest) -> str:
    """A customer of the test's own."""
    return f"{request.node.name[:80]}-{next(_numbers)}"
