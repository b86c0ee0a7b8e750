"""A real HTTP hop in front of the stand-in Stripe, where a test can lose answers, give others, or stop time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

Forward = Callable[[], Awaitable[web.Response]]
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]
_KEPT = ("Content-Type", "Authorization", "Idempotency-Key", "Stripe-Version")
_LIMIT_S = 30


async def lose_answer(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Let Stripe do it, and cut the connection before it is heard."""
    await forward()
    return _cut(request)


async def lose_request(request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Cut the connection before Stripe hears of it."""
    return _cut(request)


async def fail(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer 500 in Stripe's form, and do nothing."""
    return web.json_response({"error": {"type": "api_error", "message": "sorry"}}, status=500)


async def busy(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer 429 in Stripe's form, and do nothing."""
    return web.json_response({"error": {"type": "invalid_request_error", "code": "rate_limit"}}, status=429)


async def refuse(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer 400 in Stripe's form, and do nothing."""
    return web.json_response({"error": {"type": "invalid_request_error", "code": "lock_timeout"}}, status=400)


async def unauthorized(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer 401 in Stripe's form, and do nothing."""
    return web.json_response({"error": {"type": "invalid_request_error", "message": "Expired API Key"}}, status=401)


async def forward(_request: web.Request, forward: Forward) -> web.StreamResponse:
    """Pass the request on: a fault that is none, before one that is."""
    return await forward()


async def deny(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer 404 in Stripe's form, and do nothing."""
    return web.json_response({"error": {"type": "invalid_request_error", "code": "resource_missing"}}, status=404)


def held(arrived: asyncio.Event, go: asyncio.Event) -> Fault:
    """Let Stripe do it, say so, and keep the answer back until told."""

    async def hold(_request: web.Request, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        arrived.set()
        async with asyncio.timeout(_LIMIT_S):
            await go.wait()
        return answer

    return hold


class StripeProxy:
    """Passes requests on; the next one to a path that has a fault waiting gets that fault instead."""

    def __init__(self, target: str, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._session = session
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._at: tuple[int, Fault] | None = None
        self.calls: Counter[tuple[str, str]] = Counter()
        self.url = ""

    def next(self, method: str, path: str, *faults: Fault) -> None:
        """Have the next requests to a path meet these faults, one each."""
        self._faults.setdefault((method, path), []).extend(faults)

    def mend(self, method: str, path: str) -> None:
        """Have no request to a path meet a fault any more."""
        self._faults.pop((method, path), None)

    def nth(self, number: int, fault: Fault) -> None:
        """Have the nth request from now on (1: the next), whatever it is for, meet a fault."""
        self._at = (self.calls.total() + number, fault)

    @property
    def met(self) -> bool:
        """Whether the request that `nth` waits for has come."""
        return self._at is None or self.calls.total() >= self._at[0]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on, or meet its fault."""
        body = await request.read()
        key = (request.method, request.path)
        self.calls[key] += 1
        headers = {name: request.headers[name] for name in _KEPT if name in request.headers}

        async def forward() -> web.Response:
            url = self._target + request.raw_path
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                kept = {
                    name: answer.headers[name]
                    for name in ("Date", "Request-Id", "Idempotent-Replayed")
                    if name in answer.headers
                }
                content = await answer.read()
                return web.Response(body=content, status=answer.status, headers=kept, content_type="application/json")

        if self._at is not None and self.calls.total() == self._at[0]:
            return await self._at[1](request, forward)
        waiting = self._faults.get(key)
        return await waiting.pop(0)(request, forward) if waiting else await forward()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[StripeProxy]:
    """Run a proxy in front of a URL on a free port."""
    async with aiohttp.ClientSession() as session:
        proxy = StripeProxy(target, session)
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            await runner.cleanup()


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
