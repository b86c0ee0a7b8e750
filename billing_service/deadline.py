"""The caller's deadline, carried beside the call so that whoever waits can bound the wait and say what it waited for.

`rpc` sets it once per call; `storage` and `stripe_api` read it around each wait. A task without one has the limit that the
waiting place states for itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # time.monotonic(), seconds


@contextmanager
def deadline_after(seconds: float | None) -> Iterator[None]:
    """Give the block `seconds` to do its work; None gives it no deadline of its own."""
    token = _deadline.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining_s(limit_s: float) -> float:
    """Say how many seconds a wait may take: what the deadline leaves, and at most `limit_s`; never below 0."""
    deadline = _deadline.get()
    return limit_s if deadline is None else max(0.0, min(limit_s, deadline - time.monotonic()))
