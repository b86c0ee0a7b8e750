"""What happens around every call, in the one order that `server` declares, the outermost first:

0. Trace (in `spans`): only where traces are made.
1. CallLog: the call gets its id, and one line in the log when it ends.
2. ErrorTranslation: whatever is raised further in becomes a google.rpc.Status; nothing unknown leaks.
3. Guard (in `guard`): who calls, and whether the method is for him (health answers everybody).
4. Share (in `guard`): a bounded number of calls and streams of each caller at once.
5. Admission: a bounded number of calls at once; the next one is told to come again.
6. Streams: those have no end of their own, and are given one when the listener stops.
7. Deadline: the caller's deadline, or ours where he set none, bounds the work and every wait in it.
8. RequestDecoding (in `layers`).
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import ClassVar, Final, NoReturn

import grpc
import structlog
from structlog.contextvars import bind_contextvars

from billing_service.deadline import deadline_after
from billing_service.domain.errors import OverloadedError
from billing_service.rpc.guard import HEALTH_PREFIX
from billing_service.rpc.layers import Context, Handler, Layer
from billing_service.rpc.status import CALL_ID_KEY, CODES_BY_NUMBER, DETAILS_KEY, is_expected, reason_of, status_of

CALL_ID_METADATA: Final = "x-request-id"  # taken from the caller where he sends one, and sent back with every answer
DEFAULT_DEADLINE_S: Final = 10.0  # for callers that set none
LONGEST_DEADLINE_S: Final = 60.0  # nothing of ours takes longer; a caller's day is not to hold a call open for a day
MARGIN_MAX_S: Final = 0.25  # left for the answer to reach the caller before he gives up
MARGIN_SHARE: Final = 0.1

_CALL_ID_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OUR_FAULT: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
_TROUBLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)

_call_id: ContextVar[str] = ContextVar("call_id", default="")
_log: Final = structlog.stdlib.get_logger("billing_service.rpc")


Observe = Callable[[str, str, float], None]  # the method, the name of the code, and the duration in seconds


class CallLog(Layer):
    """Gives the call its id and writes one line when it ends: method, code, duration; nothing of its content."""

    def __init__(self, observe: Observe | None = None) -> None:
        """Take who counts calls too; health is not counted."""
        super().__init__()
        self._observe = observe

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Bind the id for every log line of the call, and write the line. The call's task ends with it: no unbinding."""
        call_id = _read_call_id(context)
        _call_id.set(call_id)
        bind_contextvars(**{CALL_ID_KEY: call_id})
        context.set_trailing_metadata(((CALL_ID_METADATA, call_id),))
        started = time.monotonic()
        code = grpc.StatusCode.UNKNOWN
        try:
            yield
            code = grpc.StatusCode.OK
        except (asyncio.CancelledError, GeneratorExit):  # the latter where the caller of a stream went away
            code = _code_of_cancelled(context)
            raise
        except grpc.aio.AbortError:
            code = context.code()
            raise
        finally:
            duration_s = time.monotonic() - started
            _write_line(method, code, duration_s)
            if self._observe is not None and not method.startswith(HEALTH_PREFIX):
                self._observe(method, code.name, duration_s)


def _read_call_id(context: Context) -> str:
    """Take the caller's id where it has the form of one (it goes into the log), and make one otherwise."""
    for key, value in context.invocation_metadata() or ():
        if key == CALL_ID_METADATA and isinstance(value, str) and _CALL_ID_FORM.fullmatch(value):
            return value
    return uuid.uuid4().hex


def _code_of_cancelled(context: Context) -> grpc.StatusCode:
    remaining_s: float | None = context.time_remaining()
    past = remaining_s is not None and remaining_s <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if past else grpc.StatusCode.CANCELLED


def _write_line(method: str, code: grpc.StatusCode, duration_s: float) -> None:
    line = {"method": method, "code": code.name, "duration_ms": round(duration_s * 1000, 2)}
    if code in _OUR_FAULT:
        _log.error("call", **line)
    elif code in _TROUBLE:
        _log.warning("call", **line)
    elif method.startswith(HEALTH_PREFIX):
        _log.debug("call", **line)  # every few seconds from every probe
    else:
        _log.info("call", **line)


class ErrorTranslation(Layer):
    """Turns whatever is raised further in into the status that `status` has for it; a defect is logged whole."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Translate; cancellation and what a servicer aborted itself pass through."""
        try:
            yield
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the one place where everything unknown is to end
            if not is_expected(error):
                _log.error("unexpected error", method=method, exc_info=error)
            await _abort(context, error)


async def _abort(context: Context, error: Exception) -> NoReturn:
    bind_contextvars(reason=reason_of(error))  # for the line of CallLog
    call_id = _call_id.get()
    status = status_of(error, call_id)
    trailing: tuple[tuple[str, str | bytes], ...] = (
        (DETAILS_KEY, status.SerializeToString()),
        (CALL_ID_METADATA, call_id),
    )
    await context.abort(CODES_BY_NUMBER[status.code], status.message, trailing)


class Admission(Layer):
    """Holds a bounded number of calls at once and refuses the next one, with words that say when to come again."""

    around_streams: ClassVar[bool] = False  # health and reflection only; gRPC's own limit bounds those

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def applies(self, method: str, handler: Handler) -> bool:
        """Keep health out of it: a full house is not a dead one."""
        return super().applies(method, handler) and not method.startswith(HEALTH_PREFIX)

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:  # noqa: ARG002 - all calls are alike here
        """Count the call in and out."""
        if self._in_flight >= self._limit:
            raise OverloadedError
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is in flight; the caller bounds the wait."""
        await self._idle.wait()


class Streams(Layer):
    """Ends the streams (health watchers, reflection) when told to, so that a stop need not wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._limits: set[asyncio.Timeout] = set()  # bounded by gRPC's own limit of calls
        self._ended = False

    def applies(self, method: str, handler: Handler) -> bool:  # noqa: ARG002 - all streams are alike here
        """Streams only."""
        return handler.request_streaming or handler.response_streaming

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:  # noqa: ARG002 - all streams are alike here
        """Let the stream go on until `end`."""
        limit = asyncio.timeout(0 if self._ended else None)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            try:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is shutting down")
            except grpc.aio.InternalError:  # gRPC could not send it: the caller went first
                raise asyncio.CancelledError from None
        finally:
            self._limits.discard(limit)

    def end(self) -> None:
        """End every stream, and from now on each that begins, with UNAVAILABLE."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)


class Deadline(Layer):
    """Bounds the work by the caller's deadline, less a margin in which the answer travels.

    The waits inside (`deadline.remaining_s`) end first and say what they waited for; half a margin later whatever is
    left is cancelled and answered with DEADLINE_EXCEEDED.
    """

    around_streams: ClassVar[bool] = False  # watching health has no end

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:  # noqa: ARG002 - all calls are alike here
        """Set the deadline for the call's task and hold it."""
        remaining_s: float | None = context.time_remaining()
        budget_s = DEFAULT_DEADLINE_S if remaining_s is None else min(max(remaining_s, 0.0), LONGEST_DEADLINE_S)
        margin_s = min(MARGIN_MAX_S, budget_s * MARGIN_SHARE)
        with deadline_after(budget_s - margin_s):
            async with asyncio.timeout(budget_s - margin_s / 2):
                yield
