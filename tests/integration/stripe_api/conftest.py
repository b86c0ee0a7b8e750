"""A small real HTTP server in Stripe's place, for the answers that a well-behaved one never gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict, MultiDict

from billing_service.stripe_api.client import StripeApi

API_KEY = "sk_test_of_the_tests"
DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
DATE_S = 1_795_435_200


@dataclass(frozen=True)
class SeenRequest:
    """What reached the server."""

    method: str
    path: str
    headers: CIMultiDict[str]
    form: MultiDict[str]
    query: MultiDict[str]


@dataclass
class Answer:
    """What the server is to say next."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Date": DATE, "Request-Id": "req_1"})
    cut: bool = False  # send half of the body and hang up
    hang: bool = False  # never answer


@dataclass
class FakeServer:
    """A real server whose answers a test writes down beforehand; it keeps what it was asked."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    seen: list[SeenRequest] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def will_answer(self, content: object, status: int = 200, **headers: str) -> None:
        """Answer the next request with this JSON."""
        self.answers.append(
            Answer(json.dumps(content).encode(), status, {"Date": DATE, "Request-Id": "req_1", **headers})
        )

    def will_refuse(self, status: int, **error: Any) -> None:
        """Answer the next request with one of Stripe's error objects."""
        self.will_answer({"error": {"message": "No such thing: ada@example.org", **error}}, status)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Keep the request, and give the next answer."""
        form = MultiDict((key, str(value)) for key, value in (await request.post()).items())
        headers, query = CIMultiDict(request.headers), MultiDict(request.query)
        self.seen.append(SeenRequest(request.method, request.path, headers, form, query))
        self.asked.set()
        answer = self.answers.pop(0)
        if answer.hang:
            await self.over.wait()
        if not answer.cut:
            return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        response = web.StreamResponse(
            status=answer.status, headers={**answer.headers, "Content-Length": str(len(answer.body))}
        )
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """The server, on a free port."""
    fake = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    fake.over.set()
    await runner.cleanup()


@pytest.fixture
async def api(server: FakeServer) -> AsyncIterator[StripeApi]:
    """What is tested, with time enough for a slow machine."""
    async with StripeApi(API_KEY, server.url, timeout_s=30) as api:
        yield api
