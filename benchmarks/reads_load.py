"""What asks for entitlements as fast as a server can answer: HTTP/2 frames put together beforehand, and the head of each answer read.

A whole gRPC client in Python would be slower than the server that it measures.
"""

from __future__ import annotations

import random
import selectors
import socket
import statistics
import struct
import time
from dataclasses import dataclass
from typing import Final

CONNECTIONS: Final = 4
IN_FLIGHT: Final = 64  # over all connections
PATH: Final = b"/billing.v1.BillingService/GetEntitlements"
STEM: Final = "customer-"

_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_WINDOW_MOST = 2**31 - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Give a header that is not indexed (RFC 7541, 6.2.2); names and values of at most 126 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


HEADERS: Final = b"".join(
    _literal(name, value)
    for name, value in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH), (b":authority", b"127.0.0.1"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"5S"),
    )
)  # fmt: skip


class Connection:
    """One HTTP/2 connection that keeps a number of calls in flight."""

    def __init__(self, port: int, customers: int, seed: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, _WINDOW_MOST))
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + self._top_up())
        self._customers = customers
        self._random = random.Random(seed)  # noqa: S311 - which customer is asked for, the same in each run
        self._stream = 1
        self._got = bytearray()
        self._credit = 0
        self._answered: set[int] = set()
        self.done = 0
        self.failed = 0

    @staticmethod
    def _top_up() -> bytes:
        return _frame(_WINDOW, 0, 0, (2**30).to_bytes(4, "big"))

    def ask(self, count: int) -> None:
        """Send so many calls, each for a customer of its own."""
        parts = []
        for _ in range(count):
            key = f"{STEM}{self._random.randrange(self._customers)}".encode()
            message = b"\x0a" + bytes((len(key),)) + key  # field 1, a text
            body = b"\0" + len(message).to_bytes(4, "big") + message
            parts += [
                _frame(_HEADERS, _END_HEADERS, self._stream, HEADERS),
                _frame(_DATA, _END_STREAM, self._stream, body),
            ]
            self._stream += 2
        self.socket.sendall(b"".join(parts))

    def take(self) -> int:
        """Read what is there and say how many calls ended with it."""
        got = self._got
        got += self.socket.recv(262_144)
        ended = at = 0
        while len(got) - at >= 9:
            size = int.from_bytes(got[at : at + 3], "big")
            if len(got) - at < 9 + size:
                break
            kind, flags, stream = got[at + 3], got[at + 4], int.from_bytes(got[at + 5 : at + 9], "big")
            ended += self._seen(kind, flags, stream, bytes(got[at + 9 : at + 9 + size]) if kind == _PING else b"", size)
            at += 9 + size
        del got[:at]
        self.done += ended
        return ended

    def _seen(self, kind: int, flags: int, stream: int, payload: bytes, size: int) -> int:
        if kind == _DATA:
            self._answered.add(stream)
            self._credit += size
            if self._credit > 2**29:
                self.socket.sendall(self._top_up())
                self._credit = 0
        elif kind == _HEADERS and flags & _END_STREAM:
            self.failed += stream not in self._answered  # an error has no message before its trailers
            self._answered.discard(stream)
            return 1
        elif kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind not in {_HEADERS, _SETTINGS, _PING, _WINDOW}:
            raise SystemExit(f"the server ended the connection or a call (frame {kind})")
        return 0


@dataclass(frozen=True)
class Round:
    """What one round gave: calls a second, or the median of one call alone in seconds; and the generator's own share of its core."""

    rate: float
    p50_s: float
    busy: float


def load(port: int, customers: int, seconds: float, seed: int) -> Round:
    """Keep 64 calls in flight for so long."""
    connections = [Connection(port, customers, seed + number) for number in range(CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for one in connections:
        selector.register(one.socket, selectors.EVENT_READ, one)
        one.ask(IN_FLIGHT // CONNECTIONS)
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        for key, _ in selector.select(1):
            ended = key.data.take()
            if ended:
                key.data.ask(ended)
    took, used = time.perf_counter() - began, time.process_time() - used
    if any(one.failed for one in connections):
        raise SystemExit("calls failed; the service's log would say why")
    for one in connections:
        one.socket.close()
    return Round(sum(one.done for one in connections) / took, 0.0, used / took)


def alone(port: int, customers: int, calls: int, seed: int) -> Round:
    """Make one call after the other."""
    one = Connection(port, customers, seed)
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        one.ask(1)
        while not one.take():
            pass
        times.append(time.perf_counter() - began)
    one.socket.close()
    return Round(calls / sum(times), statistics.median(times), 0.0)


# --- The run -------------------------------------------------------------------------------------------------------------
