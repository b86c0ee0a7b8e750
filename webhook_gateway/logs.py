"""Logs: one JSON object a line, to standard error.

Never in them: a payload, a header, a secret, a remote address, or the text of an exception, which may quote any of these.
An exception is logged by its type and the places that it passed.

There is a line per webhook, so our own lines go straight to the stream: by way of `logging` they were a fifth of all that the
gateway does.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import BinaryIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from webhook_gateway import tracing

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
_MAX_FRAMES = 30
_encoder = msgspec.json.Encoder(enc_hook=str)


def configure_logs(level: str = "INFO") -> None:
    """Send our logs and those of the libraries to standard error, from `level` up."""
    time = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    structlog.configure(
        processors=[_render],  # one step of ours instead of one of structlog's for each key
        logger_factory=_Lines(sys.stderr.buffer),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_drop_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                _add_trace,
                time,
                _describe_exception,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class _Lines:
    """Makes loggers that write whole lines to one stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __call__(self, name: str = "") -> _Line:
        return _Line(name, self._stream)


class _Line:
    """Writes one line a call, in one piece, so that lines of several threads do not mix."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: bytes) -> None:
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a reader who has gone: no reason to fail what is logged
            pass

    debug = info = warning = error = critical = exception = msg


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    found = tracing.ids()
    if found is not None:
        event["trace_id"], event["span_id"] = found
    return event


def _render(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    event["level"] = method
    event["logger"] = logger.name
    _add_trace(logger, method, event)
    event["time"] = datetime.now(UTC).isoformat().removesuffix("+00:00") + "Z"
    if "exc_info" in event:
        _describe_exception(logger, method, event)
    return _encoder.encode(event) + b"\n"


def _drop_arguments(record: logging.LogRecord) -> bool:
    """Keep the template of a library's message and not what it was filled with: aiohttp fills in remote addresses."""
    record.args = None
    return True


def _describe_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if exc_info and exc_info[0] is not None:
        event["exception"] = _type_and_frames(exc_info)
    return event


def _type_and_frames(exc_info: ExcInfo) -> dict[str, object]:
    kind, error, frames = exc_info
    described: dict[str, object] = {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "frames": [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(frames)][-_MAX_FRAMES:],
    }
    if error.__cause__ is not None:
        described["cause"] = f"{type(error.__cause__).__module__}.{type(error.__cause__).__qualname__}"
    return described
