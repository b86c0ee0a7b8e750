"""`grpc.health.v1.Health` of a listener: what it says, and how many may ask.

Whoever can connect may ask, without a credential, and a watch has no end. So both methods have bounds of their own, beside those of
the calls that need one: of a connection, of a host (so that nobody alone fills it), and in all. A client that follows our health holds
one watch on each of its connections.

Not the servicer that comes with gRPC: there a watcher that does not read holds the lock by which everybody else hears of a change.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # ships no types

from billing_service.domain.errors import OverloadedError
from billing_service.rpc.layers import Context, Handler, decoded

SERVICE_NAME: Final = "grpc.health.v1.Health"
REQUEST_LIMIT_S: Final = 5.0  # from the begin of a call to its one small message
TELL_LIMIT_S: Final = 1.0  # a watcher that does not read is not to hold up who tells

_Status = health_pb2.HealthCheckResponse


@dataclass(frozen=True)
class HealthBounds:
    """How many calls there may be at once."""

    of_connection: int
    of_host: int
    in_all: int


WATCHES: Final = HealthBounds(of_connection=8, of_host=1_000, in_all=2_000)  # as many clients as may watch entitlements
CHECKS: Final = HealthBounds(of_connection=8, of_host=100, in_all=200)  # of a millisecond each
MAX_HEALTH_CALLS: Final = WATCHES.in_all + CHECKS.in_all


class HealthRoom:
    """Counts calls of one kind in and out."""

    def __init__(self, bounds: HealthBounds) -> None:
        """Begin with none."""
        self._bounds = bounds
        self._in_all = 0
        self._of: Counter[str] = Counter()  # bounded by those in all: what is zero is taken out

    @contextmanager
    def held(self, peer: str) -> Iterator[None]:
        """Take a place for a peer (gRPC's "ipv4:10.0.0.7:50112": the port is the connection's).

        Raises:
            OverloadedError: there is none.
        """
        limits = {peer: self._bounds.of_connection, peer.rpartition(":")[0]: self._bounds.of_host}
        if self._in_all >= self._bounds.in_all or any(self._of[key] >= most for key, most in limits.items()):
            raise OverloadedError("too many calls of health are open; one for each connection is enough")
        self._in_all += 1
        self._of.update(limits.keys())
        try:
            yield
        finally:
            self._in_all -= 1
            self._of.subtract(limits.keys())
            for key in limits:
                if not self._of[key]:
                    del self._of[key]


class Health:
    """What one listener says: the same of all of its services."""

    def __init__(
        self,
        services: Collection[str],
        watches: HealthBounds = WATCHES,
        checks: HealthBounds = CHECKS,
        request_limit_s: float = REQUEST_LIMIT_S,
    ) -> None:
        """Take the names that may be asked about ("" for all); nothing serves yet. Needs a running event loop."""
        self._services = frozenset(services)
        self._watches, self._checks = HealthRoom(watches), HealthRoom(checks)
        self._request_limit_s = request_limit_s
        self._serving = self._ended = False
        self._changed = asyncio.Event()  # another one after each change
        self._open: set[object] = set()  # the watches, bounded as they are
        self._untold: set[object] = set()  # those of them that have not been sent what holds
        self._all_told = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """Serve it.

        Both methods are streams of requests to gRPC, which on the wire looks the same: so they are called, and counted, before
        the message is there, which somebody may never send.
        """
        serialized = _Status.SerializeToString
        handlers: dict[str, Handler] = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check, response_serializer=serialized),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch, response_serializer=serialized),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))

    async def tell(self, *, serving: bool) -> None:
        """Say from now on whether calls are taken, and give those who watch a second to hear it."""
        serving = serving and not self._ended
        if serving is self._serving:
            return
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        self._untold = set(self._open)
        self._all_told.clear()
        self._heard()
        changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_LIMIT_S):
                await self._all_told.wait()

    async def end(self) -> None:
        """Say that no calls are taken, whatever is told later."""
        self._ended = True
        await self.tell(serving=False)

    async def _check(self, requests: AsyncIterator[bytes], context: Context) -> Any:
        with self._checks.held(context.peer()):
            service = await self._service_asked(requests)
            if service not in self._services:
                await context.abort(grpc.StatusCode.NOT_FOUND)
            return _Status(status=self._status(service))

    async def _watch(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        with self._watches.held(context.peer()):
            service = await self._service_asked(requests)
            watch = object()
            self._open.add(watch)
            try:
                async for status in self._statuses(service, watch):
                    yield _Status(status=status)
            finally:
                self._open.discard(watch)
                self._heard(watch)

    async def _statuses(self, service: str, watch: object) -> AsyncIterator[int]:
        """Give what holds, and again whenever it has changed; what changed and changed back meanwhile is passed over."""
        told: int | None = None
        while True:
            changed, status = self._changed, self._status(service)
            if status != told:
                yield status
                told = status  # and it has been sent
            else:
                self._heard(watch)
                await changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            unknown: int = _Status.SERVICE_UNKNOWN
            return unknown
        status: int = _Status.SERVING if self._serving else _Status.NOT_SERVING
        return status

    def _heard(self, watch: object = None) -> None:
        self._untold.discard(watch)
        if not self._untold:
            self._all_told.set()

    async def _service_asked(self, requests: AsyncIterator[bytes]) -> str:
        """Read the one message; an empty one, as none at all, asks about everything.

        Raises:
            TimeoutError: it does not come.
            InvalidFieldsError: it is no such message.
        """
        async with asyncio.timeout(self._request_limit_s):
            raw = await anext(aiter(requests), b"")
        service: str = decoded(health_pb2.HealthCheckRequest.FromString, raw).service
        return service
