"""TLS handshakes that failed, from the one place that tells of them.

A certificate that has expired, is somebody else's, or was not shown ends a connection inside gRPC's core, before there is a call: no
interceptor sees it. The core writes a line of its own to file descriptor 2. So that descriptor becomes a pipe while there is TLS, and
our own lines go to a copy of what it was. A line of a handshake becomes a number, and one line of our log for each reason in ten
seconds at most; any other is passed on as it is. The reason is a word of ours: nothing that a peer sends is in it.

The core's threads are never held up: what does not fit into the pipe (300 lines in the time of one look) is lost. So may be the last
words of native code that aborts; where Python was then is told by faulthandler.
"""

from __future__ import annotations

import contextvars
import faulthandler
import io
import math
import os
import re
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import structlog

LINE_PAUSE_S: Final = 10.0  # between two lines of one reason
LOOK_S: Final = 1.0  # and then lines that are due are written
END_LIMIT_S: Final = 1.0  # for what was written and not read at the end
MAX_LINE_BYTES: Final = 8_192
STDERR: Final = 2

# gRPC's src/core/tsi/ssl_transport_security.cc; the rest of the line is OpenSSL's, a code and a sentence from its own tables.
_FAILED: Final = re.compile(
    rb"Handshake failed with (?:fatal )?error \w+(?:: error:[0-9a-f]+:[^:]*:[^:]*:(\w+)(?:: (.*))?)?"
)
_VERIFY_FAILED: Final = b"CERTIFICATE_VERIFY_FAILED"

_log = structlog.stdlib.get_logger(__name__)


class Reason(StrEnum):
    """Why there is no connection."""

    NONE_SHOWN = "no_certificate"
    EXPIRED = "certificate_expired"
    NOT_YET_VALID = "certificate_not_yet_valid"
    STRANGE = "certificate_of_another_authority"
    UNSUITABLE = "certificate_unsuitable"
    REFUSED = "refused_by_peer"  # ours, by whoever connects
    NO_TLS = "not_tls"
    OTHER = "other"


_BY_CODE: Final = {
    b"PEER_DID_NOT_RETURN_A_CERTIFICATE": Reason.NONE_SHOWN,
    b"HTTP_REQUEST": Reason.NO_TLS,
    b"HTTPS_PROXY_REQUEST": Reason.NO_TLS,
    b"WRONG_VERSION_NUMBER": Reason.NO_TLS,
    b"UNKNOWN_PROTOCOL": Reason.NO_TLS,
}
# What X509_verify_cert_error_string says.
_BY_SENTENCE: Final = {
    b"certificate has expired": Reason.EXPIRED,
    b"certificate is not yet valid": Reason.NOT_YET_VALID,
    b"unable to get local issuer certificate": Reason.STRANGE,
    b"unable to get issuer certificate": Reason.STRANGE,
    b"unable to verify the first certificate": Reason.STRANGE,
    b"self signed certificate": Reason.STRANGE,
    b"self signed certificate in certificate chain": Reason.STRANGE,
    b"certificate signature failure": Reason.STRANGE,
}


def reason_of(line: bytes) -> Reason | None:
    """Say why a handshake failed; None for a line that is of none."""
    found = _FAILED.search(line)
    if found is None:
        return None
    code, sentence = found[1] or b"", (found[2] or b"").strip()
    if code == _VERIFY_FAILED:
        return _BY_SENTENCE.get(sentence, Reason.UNSUITABLE)
    if b"_ALERT_" in code:
        return Reason.REFUSED
    return _BY_CODE.get(code, Reason.OTHER)


class Told:
    """Which lines of the log are due."""

    def __init__(self) -> None:
        """Begin with none."""
        self._untold: Counter[Reason] = Counter()
        self._last = dict.fromkeys(Reason, -math.inf)

    def note(self, reason: Reason) -> None:
        """Remember a handshake."""
        self._untold[reason] += 1

    def due(self, now: float, pause_s: float = LINE_PAUSE_S) -> dict[Reason, int]:
        """Give how many to tell of, by reason; each once, and not sooner than `pause_s` after the last time."""
        found = {one: count for one, count in self._untold.items() if now - self._last[one] >= pause_s}
        for one in found:
            self._last[one] = now
            del self._untold[one]
        return found


@contextmanager
def watched(failed: Callable[[Reason], None], restart_logs: Callable[[], None]) -> Iterator[None]:
    """Watch while inside. `failed` is told of each handshake, from a thread; `restart_logs` sends the log to the new `sys.stderr`."""
    before = os.dup(STDERR)
    if sys.stderr.fileno() == STDERR:
        sys.stderr.flush()
        sys.stderr = io.TextIOWrapper(
            os.fdopen(before, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        restart_logs()
    faulthandler.enable(before)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.dup2(writing, STDERR)
    os.close(writing)
    # In a copy of this context: a worker's lines have its number.
    reader = threading.Thread(
        target=contextvars.copy_context().run, args=(_read, reading, before, failed), name="handshakes", daemon=True
    )
    reader.start()
    try:
        yield
    finally:
        os.dup2(before, STDERR)  # and with it the pipe has no writer any more
        reader.join(END_LIMIT_S)


def _read(reading: int, before: int, failed: Callable[[Reason], None]) -> None:
    """Read until nobody can write any more."""
    told, rest = Told(), b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    read: bytes | None = None
    while read != b"":
        read = os.read(reading, MAX_LINE_BYTES) if poll.poll(LOOK_S * 1000) else None
        *lines, rest = (rest + (read or b"")).split(b"\n")
        if read == b"" or len(rest) > MAX_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in filter(None, lines):
            if (reason := reason_of(line)) is None:
                os.write(before, line + b"\n")
            else:
                failed(reason)
                told.note(reason)
        for reason, count in told.due(math.inf if read == b"" else time.monotonic()).items():
            _log.warning("tls_handshake_failed", reason=reason.value, count=count)
    os.close(reading)
