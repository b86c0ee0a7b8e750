"""Tells the service in which trace a call is, where the program that makes it has OpenTelemetry (`opentelemetry-api`)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Trace context alone, whatever propagators the program has set: baggage may hold what is nobody else's business.
_MODULE = "opentelemetry.trace.propagation.tracecontext"


def _propagator() -> Any:
    try:
        return import_module(_MODULE).TraceContextTextMapPropagator()
    except ImportError:
        return None


_known: list[Any] = []  # looked up once, at the first call


def metadata() -> tuple[tuple[str, str], ...]:
    """Give what goes with a call: W3C's traceparent (and tracestate) of the span that the caller is in; nothing outside of one."""
    if not _known:
        _known.append(_propagator())
    if _known[0] is None:
        return ()
    carrier: dict[str, str] = {}
    _known[0].inject(carrier)
    return tuple(carrier.items())
