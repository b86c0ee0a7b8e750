"""Who calls, and whether he may: by a token, or by the certificate that TLS has verified.

A token that is shown decides alone, and must be known; the certificate counts where none is shown. Decided for methods
that declare no role: health answers everybody, so that probes need no secret; reflection answers everybody who is known;
any other is refused to everybody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc
from structlog.contextvars import bind_contextvars

from billing_service.access import Credentials, Identity, Role
from billing_service.domain.errors import OverloadedError, PermissionDeniedError, UnauthenticatedError
from billing_service.rpc.layers import Context, Continuation, Handler, Layer

HEALTH_PREFIX: Final = "/grpc.health.v1.Health/"
REFLECTION_PREFIX: Final = "/grpc.reflection.v1alpha.ServerReflection/"
CALLS_OF_ONE: Final = 500  # at once: half of what a listener takes, so that nobody alone fills it
STREAMS_OF_ONE: Final = 1_000  # likewise

_identity: ContextVar[Identity | None] = ContextVar("identity", default=None)


def caller() -> str | None:
    """Give the name of who calls, which the guard has found out; None outside of a call."""
    identity = _identity.get()
    return None if identity is None else identity.name


@dataclass(frozen=True)
class Gate:
    """Who may pass a listener."""

    credentials: Callable[[], Credentials]  # asked at each call: they may change
    anonymous: Identity | None = None  # who everybody is, whatever they show; None: they must show who they are


OPEN: Final = Gate(Credentials, Identity("anonymous", Role.CALLER))


class Guard(Layer):
    """Finds out who calls, and lets through whoever has the role that the method is for."""

    def __init__(self, gate: Gate, roles: Mapping[str, Role]) -> None:
        """Take who may pass, and the role of each method by its path."""
        super().__init__()
        self._gate = gate
        self._roles = roles
        self._streaming: set[str] = set()  # bounded by the methods
        self._open: dict[asyncio.Timeout, Callable[[], bool]] = {}  # bounded by gRPC's own limit of calls

    def applies(self, method: str, handler: Handler) -> bool:
        """Keep health out of it, and remember which methods are streams."""
        if handler.request_streaming or handler.response_streaming:
            self._streaming.add(method)
        return super().applies(method, handler) and not method.startswith(HEALTH_PREFIX)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Give the method's handler, or one that refuses before the request's body is read."""
        handler = await super().intercept_service(continuation, handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH_PREFIX):
            return handler
        shown = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        if shown and self._gate.anonymous is None:
            identity = self._by_token(shown)
            _identity.set(identity)
            return _REFUSING if identity is None else handler
        nobody = self._gate.anonymous is None and not self._gate.credentials().certificates
        return _REFUSING if nobody else handler

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Let the call through, or refuse it. The log line of the call has the caller's name."""
        identity = _identity.get() or self._by_certificate(context) or self._gate.anonymous
        if identity is None:
            raise UnauthenticatedError
        _identity.set(identity)
        bind_contextvars(caller=identity.name)
        if not self._may(identity, method):
            raise PermissionDeniedError
        if method not in self._streaming:
            yield
            return
        async with self._while_known(identity, context):
            yield

    @asynccontextmanager
    async def _while_known(self, identity: Identity, context: Context) -> AsyncIterator[None]:
        """Let a stream go on for as long as what its caller showed leads to the same identity.

        It ends with UNAVAILABLE: its caller may have another token by now, and shows that when he connects again. Who has none
        is refused at the door.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._open[limit] = lambda: self._who(context) == identity
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            try:
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE, "what opened this stream is not valid any more; connect again"
                )
            except grpc.aio.InternalError:  # gRPC could not send it: the caller went first
                raise asyncio.CancelledError from None
        finally:
            self._open.pop(limit, None)

    def look_again(self) -> None:
        """End the streams of whoever is not known any more; called when the credentials have changed."""
        now = asyncio.get_running_loop().time()
        for limit, is_known in self._open.items():
            if not limit.expired() and not is_known():
                limit.reschedule(now)

    def _who(self, context: Context) -> Identity | None:
        if self._gate.anonymous is not None:
            return self._by_certificate(context) or self._gate.anonymous
        shown = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        return self._by_token(shown) if shown else self._by_certificate(context)

    def _may(self, identity: Identity, method: str) -> bool:
        return method.startswith(REFLECTION_PREFIX) or self._roles.get(method) is identity.role

    def _by_token(self, shown: list[str | bytes]) -> Identity | None:
        if len(shown) != 1 or not isinstance(shown[0], str):
            return None
        scheme, _, token = shown[0].partition(" ")
        return self._gate.credentials().by_token(token) if scheme.lower() == "bearer" else None

    def _by_certificate(self, context: Context) -> Identity | None:
        """Ask TLS: it knows a peer's certificate only where it has verified it against the clients' authorities."""
        known = self._gate.credentials()
        if not known.certificates:
            return None
        found: Mapping[str, Iterable[bytes]] = context.auth_context()
        # As RFC 9525 has it: the common name counts only where there are no subject alternative names.
        names = found.get("x509_subject_alternative_name") or found.get("x509_common_name") or ()
        return known.by_certificate(name.decode(errors="replace") for name in names)


async def _refuse(_requests: Any, _context: Context) -> NoReturn:
    raise UnauthenticatedError


# As a reader of a stream it is called before any message is read; on the wire the kinds look the same.
_REFUSING: Final[Handler] = grpc.stream_unary_rpc_method_handler(_refuse)


class Share(Layer):
    """Gives every caller a share of the listener: a bounded number of calls, and of streams, at once.

    Whoever is anonymous is bound by what the listener takes as a whole.
    """

    def __init__(self, calls: int = CALLS_OF_ONE, streams: int = STREAMS_OF_ONE) -> None:
        """Take the bounds for one caller."""
        super().__init__()
        self._limits = {False: calls, True: streams}
        self._in_flight: Counter[tuple[str, bool]] = Counter()  # bounded by the identities: what is zero is taken out
        self._streaming: set[str] = set()  # bounded by the methods

    def applies(self, method: str, handler: Handler) -> bool:
        """Keep health out of it, and remember which methods are streams."""
        if handler.request_streaming or handler.response_streaming:
            self._streaming.add(method)
        return super().applies(method, handler) and not method.startswith(HEALTH_PREFIX)

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:  # noqa: ARG002 - the guard has asked it
        """Count the call in and out."""
        identity = _identity.get()
        if identity is None or identity is OPEN.anonymous:
            yield
            return
        key = (identity.name, method in self._streaming)
        if self._in_flight[key] >= self._limits[key[1]]:
            raise OverloadedError("too many calls of this caller are in flight; come again a little later")
        self._in_flight[key] += 1
        try:
            yield
        finally:
            self._in_flight[key] -= 1
            if not self._in_flight[key]:
                del self._in_flight[key]
