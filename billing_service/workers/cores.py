"""Which worker runs on which core.

gRPC's threads hand each call over, and on several cores that costs more than it gives: a process keeps to one. But only where each
worker has a core of its own and none is left over: pinned to the first of many cores, two programs would meet on these and
leave the others idle. `taskset` or a cpuset says which cores are a program's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence


def allowed_cores() -> Collection[int] | None:
    """Give the cores that this process may use; None where the system cannot say, or cannot pin."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else None


def cores_for(workers: int, allowed: Collection[int] | None) -> Sequence[int | None]:
    """Give each worker its core; None for each where they are not one each."""
    if allowed is None or len(allowed) != workers:
        return [None] * workers
    return sorted(allowed)


def pin(core: int | None) -> None:
    """Keep this process to a core. Before any thread is started: they inherit it."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})
