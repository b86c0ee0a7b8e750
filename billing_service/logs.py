"""Logs: one JSON object a line, to standard error.

Never in them: a payload, a header, a secret, an e-mail address, or the text of an exception, which may quote any of these
(a driver's error names the row, Stripe's the parameters). An exception is logged by its type, the places that it passed, and
the same of what caused it; one that was expected by what `named` gives for it (`tools/log_errors.py` finds any other way).

There is a line per call, so our own lines go straight to the stream: by way of `logging` they were a sixth of all that a call costs
that does nothing else.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextlib import suppress
from typing import BinaryIO, Final

import msgspec
import structlog
from structlog.contextvars import merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from billing_service import tracing
from billing_service.domain.errors import BillingError
from billing_service.domain.json_fields import MalformedError
from billing_service.storage.unwritable import UnwritableError
from billing_service.stripe_api.errors import StripeCallError

MAX_FRAMES: Final = 40  # of one exception, the innermost ones
MAX_CAUSES: Final = 5
# Their text has no value of anybody's, as each of them promises: what was called, a status, a code, a field, a rule.
_OURS: Final = (StripeCallError, MalformedError, UnwritableError)
# Libraries that would write addresses, URLs and parameters at INFO, and bodies and headers at DEBUG, whatever our level is.
_KEPT_QUIET: Final = ("stripe", "httpx", "httpcore", "aiohttp", "alembic", "sqlalchemy", "psycopg")


def named(error: BaseException) -> str:
    """Say of an error that was expected what a log line may: its reason, or its type where we know of none.

    Not the message that callers get: it may quote a name by which they asked, and so a customer.
    """
    if isinstance(error, BillingError):
        return error.reason
    return str(error) if isinstance(error, _OURS) else type(error).__qualname__


def configure_logs(level: str = "INFO") -> None:
    """Send our logs and those of the libraries to standard error, from `level` (a name of logging's) up."""
    time = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    _lines.stream = sys.stderr.buffer
    structlog.configure(
        processors=[
            merge_contextvars, structlog.processors.add_log_level, _add_name, _add_trace, time, _describe_exception, _render,
        ],
        logger_factory=_lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )  # fmt: skip
    of_libraries: list[Processor] = [
        merge_contextvars, structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _add_trace, time, _describe_exception,
    ]  # fmt: skip
    root = logging.getLogger()
    root.handlers[:] = [_handler(of_libraries)]
    root.setLevel(level)
    for name in _KEPT_QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _Lines:
    """Makes loggers that write whole lines to one stream, also those that are made already when the stream becomes another one."""

    stream: BinaryIO  # `configure_logs` says which

    def __call__(self, name: str = "") -> _Line:
        return _Line(name, self)


class _Line:
    """Writes one line a call, in one piece, so that lines of several threads do not mix."""

    def __init__(self, name: str, lines: _Lines) -> None:
        self.name = name
        self._lines = lines

    def msg(self, line: bytes) -> None:
        stream = self._lines.stream
        with suppress(OSError, ValueError):  # a full disk, a reader who has gone: no reason to fail what is logged
            stream.write(line)
            stream.flush()

    debug = info = warning = error = critical = exception = msg


_lines: Final = _Lines()


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=str) + b"\n"
    except (ValueError, OverflowError, TypeError, RecursionError):
        # Half a surrogate, a number that is too long, a cycle: as text, and never refused.
        return json.dumps({str(key): str(value) for key, value in event.items()}).encode() + b"\n"


def _add_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _handler(of_libraries: list[Processor]) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_drop_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=of_libraries,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    return handler


def _drop_arguments(record: logging.LogRecord) -> bool:
    """Keep the template of a library's message and not what it was filled with."""
    record.args = None
    return True


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    found = tracing.ids()
    if found is not None:
        event["trace_id"], event["span_id"] = found
    return event


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        event["exception"] = described(error)
    return event


def described(error: BaseException) -> list[dict[str, object]]:
    """Give the types and frames of an exception and of what caused it, the outermost first; never its text."""
    chain: list[dict[str, object]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < MAX_CAUSES:
        frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(current.__traceback__)]
        kind = type(current)
        chain.append({"type": f"{kind.__module__}.{kind.__qualname__}", "frames": frames[-MAX_FRAMES:]})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain
