"""What each benchmark is to reach, and how to find in its file what was reached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aim:
    """One number beside what it is to be."""

    what: str
    measured: float
    bound: float
    unit: str = ""
    at_most: bool = False  # otherwise at least

    @property
    def share(self) -> float:
        """How much of the aim was reached: from 1 on it is."""
        return self.bound / self.measured if self.at_most else self.measured / self.bound

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"{'at most' if self.at_most else 'at least'} {number(self.bound)}{self.unit}"


def number(value: float) -> str:
    """Write a number as people read it: three digits of it, or all that stand before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def aims(files: Mapping[str, Any]) -> list[Aim]:
    """Give what is to be reached of every file that is there, by its name; files of other benchmarks have none."""
    finders = {
        "reads": _reads,
        "watch": _watch,
        "webhooks": _webhooks,
        "growth": _growth,
        "backlog": _backlog,
        "cores": _cores,
    }
    return [aim for name, find in finders.items() if name in files for aim in find(files[name])]


def _reads(found: Any) -> Iterator[Aim]:
    for size in found["sizes"]:
        of = f"GetEntitlements, {size['customers']:,} customers"
        yield Aim(f"{of}: throughput beside an empty handler", size["ratio"], 0.8)
        yield Aim(f"{of}: one alone beside an empty handler, p50", size["p50_ratio"], 2.5, at_most=True)
    if len(found["sizes"]) > 1:
        yield Aim("the most customers beside the fewest", found["largest_over_smallest"], 0.9)


def _watch(found: Any) -> Iterator[Aim]:
    rate = found["alone"]["rate_per_s"]
    commit = found["alone"]["from_commit"]
    yield Aim(
        f"from commit to a client's cache, {rate} changes a second: p50", commit["p50_ms"], 20, " ms", at_most=True
    )
    yield Aim("the same: p99", commit["p99_ms"], 100, " ms", at_most=True)
    yield Aim("cached checks a second on one core", found["cached_checks_per_s"]["check"], 1_000_000)
    of = f"processor time of a change beside {found['streams']['open']:,} streams that don't ask for it, and without"
    yield Aim(of, found["cpu_among_streams_over_alone"], 1.1, at_most=True)


def _webhooks(found: Any) -> Iterator[Aim]:
    for one in _several(found):
        of = f"webhooks, {one['customers']:,} customers" + (f", Python {one['python']}" if "python" in one else "")
        yield Aim(f"{of}: beside pgbench, bodies compressed", one["ours_over_pgbench"], 1.5)
        if "ours_over_pgbench_whole_bodies" in one:
            yield Aim(f"{of}: beside pgbench, bodies as they come", one["ours_over_pgbench_whole_bodies"], 1.5)
        if "ours_over_mirror" in one:
            yield Aim(f"{of}: beside a mirror in Node", one["ours_over_mirror"], 2)
            yield Aim(f"{of}: one at a time beside the mirror, p50", one["alone_over_mirror"], 1.5, at_most=True)


def _growth(found: Any) -> Iterator[Aim]:
    of = f"a webhook's processor time, {found['sizes'][-1]['customers']:,} customers beside {found['sizes'][0]['customers']:,}"
    yield Aim(of, found["cpu_ratio"], 1.15, at_most=True)
    if "with_postgres_defaults" in found:
        yield Aim(f"{of}, with PostgreSQL's defaults", found["with_postgres_defaults"]["cpu_ratio"], 1.15, at_most=True)


def _backlog(found: Any) -> Iterator[Aim]:
    for one in _several(found):
        p99 = one["live_beside_backlog_ms"]["p99"]
        yield Aim("live webhooks beside a backlog: p99", p99, 1_000, " ms", at_most=True)


def _cores(found: Any) -> Iterator[Aim]:
    contenders = found["contenders"] if isinstance(found, dict) else found
    for one in contenders:
        if one["name"] == "2-workers":
            yield Aim("two workers, each pinned, beside one that is pinned", one["ratio"], 1.6)


def _several(found: Any) -> Iterable[Any]:
    return found if isinstance(found, list) else [found]
