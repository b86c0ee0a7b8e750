"""What an event costs in a small and in a large database, in one run: processor time and throughput.

    python -m benchmarks.growth --customers 1000 1000000 --rounds 8

Both are filled with what one recorded customer's life left behind, in every table that a webhook touches, and analysed. A round sends
so many events to each in turn, by a service and a gateway of their own, started for the round. Every customer is met once, in an order
that is scattered over all of them: the smallest database is put back to its beginning before each round, so that nobody has more
invoices of his own there than in the large one. Processor time is what the service, the gateway and PostgreSQL used (`/proc`). Beside it
PostgreSQL's own counters, to tell what of it is the search and what is pages that were not at hand: how many an event looked at, how many of these
were not in its buffers, and how many were written to the log whole, as each is that changes for the first time after a checkpoint.

In rounds of its own pgbench runs the bare inserts and upserts of the same events on each of them, a transaction each (`benchmarks.pgbench`): what
PostgreSQL needs for these alone grows as well, and tells how much of the growth is of the rows themselves and where they lie.

All of it twice: with what docs/operations.md advises for many customers, and with PostgreSQL's own settings, which are for a small
machine (128 MB of buffers). Each round begins after a checkpoint either way.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import psycopg

from benchmarks import results
from benchmarks.bodies import CUSTOMERS_A_GROUP, GROUP, Stream
from benchmarks.load import Load, Outcome
from benchmarks.pgbench import Pgbench
from benchmarks.stage import WEBHOOK_PATH, Pair, Stage, advised
from benchmarks.webhooks import verify

IN_FLIGHT: Final = 64
LONGEST_S: Final = 120.0  # of one round
STRIDE: Final = 7_368_787  # shares no divisor with any power of ten
WARM_SHARE: Final = 0.2  # of a round's events, before it is measured
PROGRAMS: Final = ("service", "gateway", "postgres")
TOLD_S: Final = 1.5  # a connection tells its counters a second after its last transaction
PEER_CLIENTS: Final = 16
PEER_EVENTS: Final = 8_000  # of a round: what its connections cost to make is spread over them
PAGES: Final = ("looked_at", "not_in_buffers", "logged_whole")


@dataclass
class Size:
    """A database of so many customers, and what was measured on it."""

    name: str
    customers: int
    is_renewed: bool  # put back to its beginning before each round
    each: Mapping[str, int] = field(default_factory=dict)  # what a customer has many of, where the sizes differ in that
    next_position: int = 0
    rates: list[float] = field(default_factory=list)
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PROGRAMS})
    pages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PAGES})
    pgbench_us: list[float] = field(default_factory=list)  # PostgreSQL's part, in rounds of pgbench

    @property
    def cpu_us_each(self) -> list[float]:
        """Processor time of one event in each round, all programs together, in microseconds."""
        return [sum(parts) for parts in zip(*self.cpu_us.values(), strict=True)]

    def anew(self) -> Size:
        """Give the same database, of which nothing was measured yet; customers who were met are not met again."""
        none: dict[str, list[float]] = {name: [] for name in PROGRAMS}
        return replace(self, rates=[], cpu_us=none, pages={name: [] for name in PAGES}, pgbench_us=[])

    def report(self) -> dict[str, Any]:
        """Give the medians."""
        parts = {f"{name}_us": round(statistics.median(values)) for name, values in self.cpu_us.items()}
        return {
            **(self.each or {"customers": self.customers}),
            "per_s": round(statistics.median(self.rates)),
            "cpu_us": round(statistics.median(self.cpu_us_each)),
            **parts,
            **{f"pages_{name}": round(statistics.median(values), 1) for name, values in self.pages.items()},
            **({"pgbench_us": round(statistics.median(self.pgbench_us))} if self.pgbench_us else {}),
        }


def main() -> int:
    """Fill, measure, and say what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 1_000_000])
    add_arguments(parser, rounds=8, events=2_500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Stage(folder, advised()) as stage:
            sizes = [fill(stage, customers, chosen.events) for customers in sorted(chosen.customers)]
            wait(asked=chosen.wait)
            measure(stage, sizes, chosen.rounds, chosen.events)
            stage.restart_postgres()
            again = [size.anew() for size in sizes]
            measure(stage, again, chosen.rounds, chosen.events)
            # Last of all: what pgbench leaves behind is no customer's life.
            measure_peer(stage, again, chosen.rounds)
            stage.restart_postgres(advised())
            measure_peer(stage, sizes, chosen.rounds)
            found = report(sizes) | {"settings": advised(), "with_postgres_defaults": report(again)}
    results.write(found, chosen.out)
    return 0


def add_arguments(parser: argparse.ArgumentParser, *, rounds: int, events: int) -> None:
    """Let somebody choose the rounds, with these for defaults, and where the results go."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--events", type=int, default=events, help="of a round, a fifth of them to warm up")
    parser.add_argument("--wait", action="store_true", help="once filled, wait for a line on standard input")
    results.add_argument(parser)


def wait(*, asked: bool) -> None:
    """Wait for a line before anything is measured, where that was asked for."""
    if asked:
        sys.stderr.write("filled\n")
        sys.stderr.flush()
        sys.stdin.readline()


def fill(stage: Stage, customers: int, events: int) -> Size:
    """Make a database of so many customers, with one past event each and everything else that they have."""
    name = f"size_{customers}"
    stage.database(name, customers, events_each=1, whole=True)
    sys.stderr.write(f"{customers:,} customers are there\n")
    return Size(name, customers, is_renewed=events // GROUP * CUSTOMERS_A_GROUP * 4 > customers)


def measure(stage: Stage, sizes: Sequence[Size], rounds: int, events: int) -> None:
    """Send a round to each size in turn."""
    for number in range(rounds):
        for size in sizes if number % 2 else sizes[::-1]:
            one_round(stage, size, events)
            sys.stderr.write(
                f"round {number + 1}, {size.name}: {size.rates[-1]:.0f}/s, {size.cpu_us_each[-1]:.0f} us each: "
                + ", ".join(f"{name} {values[-1]:.0f}" for name, values in size.cpu_us.items())
                + "\n"
            )


def one_round(stage: Stage, size: Size, events: int) -> None:
    """Start both programs on a size's database, warm them up, and measure."""
    url = _begun(stage, size)
    pair = stage.serve(url)
    try:
        warm = int(events * WARM_SHARE)
        send(stage, pair, size, warm)
        stage.settle()
        looked_before = looked(url)
        before = used(stage, pair)
        stream, outcome = send(stage, pair, size, events - warm)
        after = used(stage, pair)
        looked_after = looked(url)
        verify(url, stream, outcome)
    finally:
        pair.stop()
    size.rates.append(outcome.rate_per_s)
    for name in PROGRAMS:
        size.cpu_us[name].append((after[name] - before[name]) * 1e6 / (events - warm))
    for name in PAGES:
        size.pages[name].append((looked_after[name] - looked_before[name]) / (events - warm))


def measure_peer(stage: Stage, sizes: Sequence[Size], rounds: int) -> None:
    """Have pgbench run a round on each size in turn."""
    for number in range(rounds):
        for size in sizes if number % 2 else sizes[::-1]:
            series = f"{stage.postgres.pid}_{number}_"
            peer = Pgbench(
                stage.folder, _begun(stage, size), stage.recording, size.customers, compressed=True, series=series
            )
            peer.transact(PEER_CLIENTS, PEER_EVENTS // 4)  # to warm up
            stage.settle()
            before = stage.postgres_cpu_s()
            peer.transact(PEER_CLIENTS, PEER_EVENTS)
            size.pgbench_us.append((stage.postgres_cpu_s() - before) * 1e6 / PEER_EVENTS)
            sys.stderr.write(f"round {number + 1}, {size.name}: pgbench's events {size.pgbench_us[-1]:.0f} us each\n")


def _begun(stage: Stage, size: Size) -> str:
    """Give a size's database, put back to its beginning where each round begins so."""
    if not size.is_renewed:
        return stage.postgres.url(size.name)
    size.next_position = 0
    stage.drop("renewed")
    return stage.copy("renewed", size.name)


def send(stage: Stage, pair: Pair, size: Size, count: int) -> tuple[Stream, Outcome]:
    """Send so many events of customers who were not met yet."""
    stream = Stream(stage.recording.templates, size.customers, size.next_position, stride=STRIDE)
    size.next_position += count + (-count) % GROUP
    load = Load(pair.port, WEBHOOK_PATH, stage.secret, stream, count, IN_FLIGHT, LONGEST_S)
    return stream, stage.generators.run(load)


def used(stage: Stage, pair: Pair) -> dict[str, float]:
    """Give the processor time that each program has used so far, in seconds."""
    return {"service": pair.service.cpu_s(), "gateway": pair.gateway.cpu_s(), "postgres": stage.postgres_cpu_s()}


def looked(url: str) -> dict[str, float]:
    """Give PostgreSQL's counters of pages so far, once every connection has told its own."""
    time.sleep(TOLD_S)
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT blks_read + blks_hit, blks_read, (SELECT wal_fpi FROM pg_stat_wal) FROM pg_stat_database"
            " WHERE datname = current_database()"
        ).fetchone()
    return dict(zip(PAGES, map(float, found or ()), strict=True))


def report(sizes: Sequence[Size]) -> dict[str, Any]:
    """Give each size's medians, and the ratios of the largest to the smallest: medians over the rounds."""
    small, large = sizes[0], sizes[-1]
    cpu = [b / a for a, b in zip(small.cpu_us_each, large.cpu_us_each, strict=True)]
    rate = [b / a for a, b in zip(small.rates, large.rates, strict=True)]
    return {
        "sizes": [size.report() for size in sizes],
        "cpu_ratio": round(statistics.median(cpu), 3),
        "cpu_ratio_least": round(min(cpu), 3),
        "cpu_ratio_most": round(max(cpu), 3),
        "rate_ratio": round(statistics.median(rate), 3),
        "rounds": len(cpu),
    } | _peer_ratio(small, large)


def _peer_ratio(small: Size, large: Size) -> dict[str, float]:
    if not small.pgbench_us:
        return {}
    ratios = [b / a for a, b in zip(small.pgbench_us, large.pgbench_us, strict=True)]
    return {"pgbench_ratio": round(statistics.median(ratios), 3)}


if __name__ == "__main__":
    sys.exit(main())
