"""The load generator: one process, plain non-blocking sockets, every request rendered and signed before the clock starts.

Pure Python and still far from being the limit: per request it costs one send, one receive and a search for the end of the
head. It reports its own share of the machine's processors with each result.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from benchmarks.bodies import Stream, bodies
from benchmarks.errors import BenchmarkError
from sandbox.ports import HOST

_ANSWER_TIMEOUT_S = 30.0
_RECEIVE_BYTES = 65_536
_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """What to send, where, and how: `in_flight` at once, for `seconds` or until the stream's `count` is sent.

    With `rate_per_s` the requests leave on a schedule, however long the answers take, and latencies count from it.
    """

    port: int
    path: str
    secret: str
    stream: Stream
    count: int
    in_flight: int
    seconds: float
    rate_per_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a load: how many of the stream were answered 2xx, in which time (seconds), and what was refused."""

    sent: int
    acknowledged: tuple[int, ...]  # positions in the stream
    refused: int
    elapsed_s: float
    latencies_s: tuple[float, ...]  # of the acknowledged, as they ended
    cpu_s: float

    @property
    def rate_per_s(self) -> float:
        """Acknowledged requests a second."""
        return len(self.acknowledged) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def cpu_share(self) -> float:
        """The generator's share of all processors of the machine."""
        return self.cpu_s / (self.elapsed_s * (os.cpu_count() or 1)) if self.elapsed_s else 0.0

    def percentile_s(self, share: float) -> float:
        """Give a latency that `share` of the acknowledged requests did not exceed."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


class Generators:
    """A few processes that generate load, ready before anything is measured."""

    def __init__(self, count: int = 2) -> None:
        """Start them."""
        self._pool = ProcessPoolExecutor(max_workers=count, mp_context=get_context("spawn"))

    def start(self, load: Load) -> Future[Outcome]:
        """Begin to generate; the result comes as a future."""
        return self._pool.submit(generate, load)

    def run(self, load: Load) -> Outcome:
        """Generate, and wait for the end of it."""
        return self.start(load).result()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()


def generate(load: Load) -> Outcome:
    """Render, sign, connect; then send and measure.

    Raises:
        BenchmarkError: the other side closed a connection, or did not answer in half a minute.
    """
    signed_at = int(time.time())
    requests = [_request(load, body, signed_at) for body in bodies(load.stream, load.count)]
    lanes = [_Lane(load.port) for _ in range(load.in_flight)]
    try:
        return _Run(load, requests, lanes).run()
    finally:
        for lane in lanes:
            lane.socket.close()


def _request(load: Load, body: bytes, signed_at: int) -> bytes:
    signature = hmac.new(load.secret.encode(), b"%d.%s" % (signed_at, body), hashlib.sha256).hexdigest()
    head = (
        f"POST {load.path} HTTP/1.1\r\nHost: {HOST}:{load.port}\r\nUser-Agent: Stripe/1.0\r\nAccept: */*\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f"Stripe-Signature: t={signed_at},v1={signature}\r\n\r\n"
    )
    return head.encode() + body


class _Lane:
    """One connection, on which one request is under way at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), _ANSWER_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.position = -1
        self.began_at = 0.0
        self.answer = b""

    def send(self, position: int, request: bytes, began_at: float) -> None:
        self.position, self.began_at, self.answer = position, began_at, b""
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read on; give the status once the whole answer is here."""
        read = self.socket.recv(_RECEIVE_BYTES)
        if not read:
            raise BenchmarkError("the connection was closed in the middle of an answer")
        self.answer += read
        head, end, rest = self.answer.partition(_END)
        if not end:
            return None
        lowered = head.lower()
        if b"chunked" in lowered:
            whole = rest.endswith(b"0\r\n\r\n")
        else:
            whole = len(rest) >= int(lowered.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return int(head[9:12]) if whole else None


class _Run:
    """One run of a load over its lanes."""

    def __init__(self, load: Load, requests: Sequence[bytes], lanes: Sequence[_Lane]) -> None:
        self._load = load
        self._requests = requests
        self._free = deque(lanes)
        self._selector = selectors.DefaultSelector()
        for lane in lanes:
            self._selector.register(lane.socket, selectors.EVENT_READ, lane)
        self._next = 0
        self._busy = 0
        self._refused = 0
        self._acknowledged: list[int] = []
        self._latencies: list[float] = []

    def run(self) -> Outcome:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._started_at = ended_at = time.perf_counter()
        self._deadline = self._started_at + self._load.seconds
        self._send()
        while self._busy or self._pending(ended_at):
            for lane in self._answered(ended_at):
                self._free.append(lane)
            ended_at = time.perf_counter()
            self._send()
        spent = resource.getrusage(resource.RUSAGE_SELF)
        return Outcome(
            sent=self._next,
            acknowledged=tuple(self._acknowledged),
            refused=self._refused,
            elapsed_s=ended_at - self._started_at,
            latencies_s=tuple(self._latencies),
            cpu_s=spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime,
        )

    def _pending(self, now: float) -> bool:
        return self._next < len(self._requests) and now < self._deadline

    def _send(self) -> None:
        """Put everything on its way that may leave now."""
        now = time.perf_counter()
        while self._free and self._pending(now):
            due_at = self._due_at(now)
            if due_at > now:
                return
            lane = self._free.popleft()
            lane.send(self._next, self._requests[self._next], due_at)
            self._next += 1
            self._busy += 1

    def _due_at(self, now: float) -> float:
        rate = self._load.rate_per_s
        return now if rate is None else self._started_at + self._next / rate

    def _answered(self, now: float) -> Iterator[_Lane]:
        """Give the lanes whose answers are here; wait for at least one, or until the next request is due."""
        wait_s = _ANSWER_TIMEOUT_S
        if self._load.rate_per_s is not None and self._free and self._pending(now):
            wait_s = max(0.0, self._due_at(now) - now)
        ready = self._selector.select(wait_s)
        if not ready and wait_s == _ANSWER_TIMEOUT_S:
            raise BenchmarkError(f"no answer within {_ANSWER_TIMEOUT_S:.0f} s")
        for key, _ in ready:
            lane: _Lane = key.data
            status = lane.receive()
            if status is None:
                continue
            self._busy -= 1
            if 200 <= status < 300:
                self._acknowledged.append(lane.position)
                self._latencies.append(time.perf_counter() - lane.began_at)
            else:
                self._refused += 1
            yield lane
