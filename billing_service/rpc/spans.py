"""A span around every call, in the trace of whoever calls where he says which that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc

from billing_service import tracing
from billing_service.rpc.guard import HEALTH_PREFIX, REFLECTION_PREFIX
from billing_service.rpc.layers import Context, Handler, Layer

# What is the service's own doing; the others are answers. https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
_FAILURES: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Trace(Layer):
    """Records a call: its method and the code that it ended with; nothing of its content, and not who calls.

    Before the guard, so that the line of a call that is refused has its trace too. A traceparent is believed from anybody: it
    opens nothing, and whether a trace is kept is the sampler's to say (OTEL_TRACES_SAMPLER).
    """

    def applies(self, method: str, handler: Handler) -> bool:
        """Keep what probes and tools ask out of it."""
        return super().applies(method, handler) and not method.startswith((HEALTH_PREFIX, REFLECTION_PREFIX))

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        """Record the call. Its task ends with it: no leaving of the span."""
        service, _, name = method.strip("/").partition("/")
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        span = tracing.begin(
            method.strip("/"), tracing.SpanKind.SERVER, parent=_parent(context), root=True, attributes=about
        )
        tracing.enter(span)
        code = grpc.StatusCode.UNKNOWN.name
        try:
            yield
            code = grpc.StatusCode.OK.name
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        finally:
            tracing.end(span, code if code in _FAILURES else None, **{"rpc.response.status_code": code})


def _parent(context: Context) -> str | None:
    """Give the last one: a caller's instrumentation puts the span that is nearest behind what his code has put there."""
    found = [value for key, value in context.invocation_metadata() or () if key == tracing.TRACEPARENT]
    return found[-1] if found and isinstance(found[-1], str) else None
