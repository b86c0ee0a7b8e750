"""How many webhooks a second, beside pgbench and beside a Node mirror, in one run.

    python -m benchmarks.webhooks --customers 1000 20000 --rounds 5

Every peer has 64 requests (pgbench: clients) under way, the same PostgreSQL with its durable settings, and the same customers and
events; each round begins with a population of its own, and two seconds that are not measured. Each size by itself; the rounds of all peers are interleaved, so that a noisy machine is noisy for each; what is said are medians and ratios. After
each round the database is searched for what was acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg

from benchmarks import mirror
from benchmarks.bodies import INVOICE, SESSION, SUBSCRIPTION, Stream, event_id
from benchmarks.errors import BenchmarkError
from benchmarks.load import Load, Outcome
from benchmarks.pgbench import Pgbench
from benchmarks.stage import WEBHOOK_PATH, Stage

IN_FLIGHT = 64
_MOST_A_SECOND = 6_000  # rendered before the clock starts; a round ends early should anybody be faster
_ALONE_COUNT = 600
_WARM_S = 2.0
_POPULATION, _ROUND = "population", "round"  # databases


@dataclass
class Series:
    """The rounds of one peer: rates (a second), and latencies (ms) of one request at a time."""

    rates: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    cpu_shares: list[float] = field(default_factory=list)  # the generator's, of the whole machine


class Positions:
    """Hands out parts of the stream that were not sent yet."""

    def __init__(self, recording_stream: Callable[[int], Stream]) -> None:
        self._make = recording_stream
        self._next = 0

    def take(self, count: int) -> Stream:
        """Give a stream whose next `count` positions are new."""
        stream = self._make(self._next)
        self._next += count + (-count) % 5
        return stream


def verify(database_url: str, stream: Stream, outcome: Outcome) -> None:
    """See that every acknowledged event is recorded.

    Raises:
        BenchmarkError: one is missing, or requests were refused.
    """
    if outcome.refused:
        raise BenchmarkError(f"{outcome.refused} of {outcome.sent} webhooks were refused")
    ids = [event_id(stream, stream.start + position) for position in outcome.acknowledged]
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM stripe_events WHERE event_id = ANY(%s)", [ids]).fetchone()
    if row is None or row[0] != len(set(ids)):
        raise BenchmarkError(f"{len(set(ids))} events were acknowledged, {row[0] if row else 0} are recorded")


def main() -> int:
    """Run, print a line per round, and the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    chosen = parser.parse_args()
    found = []
    for customers in chosen.customers:
        with tempfile.TemporaryDirectory(prefix="billing-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            found.append(measure(folder, customers, chosen.rounds, chosen.seconds))
    text = json.dumps(found, indent=2)
    sys.stdout.write(text + "\n")
    if chosen.out:
        chosen.out.write_text(text + "\n")
    return 0


def measure(folder: Path, customers: int, rounds: int, seconds: float) -> dict[str, object]:
    """Measure every peer in turn, `rounds` times."""
    with Stage(folder) as stage:
        recording = stage.recording
        stage.database(_POPULATION, customers)
        positions = Positions(lambda start: Stream(recording.templates, customers, start))
        node = None if mirror.why_not() else mirror.start(stage)
        ours, theirs, plain, whole = Series(), Series(), Series(), Series()
        if node:
            _round(stage, node.port, "/", positions, _WARM_S, _trust)
        for number in range(rounds):
            peer = Pgbench(folder, _begun(stage), recording, customers, compressed=True)
            peer.run(IN_FLIGHT, _WARM_S)
            stage.settle()
            plain.rates.append(peer.run(IN_FLIGHT, seconds))
            plain.alone_ms.append(peer.alone(_ALONE_COUNT))
            peer = Pgbench(folder, _as_a_table_is_made(_begun(stage)), recording, customers, compressed=False)
            peer.run(IN_FLIGHT, _WARM_S)
            stage.settle()
            whole.rates.append(peer.run(IN_FLIGHT, seconds))
            _ours(stage, positions, seconds, ours)
            if node:
                stage.settle()
                outcome = _round(stage, node.port, "/", positions, seconds, _trust)
                theirs.rates.append(outcome.rate_per_s)
                theirs.alone_ms.append(_alone(stage, node.port, "/", positions))
            sys.stderr.write(
                f"round {number + 1}: pgbench {plain.rates[-1]:.0f}/s alone {plain.alone_ms[-1]:.2f} ms, with bodies as they come {whole.rates[-1]:.0f}/s, ours {ours.rates[-1]:.0f}/s alone {ours.alone_ms[-1]:.2f} ms"
                + (f", mirror {theirs.rates[-1]:.0f}/s alone {theirs.alone_ms[-1]:.2f} ms\n" if node else "\n")
            )
        return _report(customers, ours, theirs, plain, whole)


def _begun(stage: Stage) -> str:
    """Give a database with the population as it was at first, for one round of one contender.

    Whoever buys one pass after the other has more to be written with each event, which pgbench's scripts know nothing of.
    """
    stage.drop(_ROUND)
    return stage.copy(_ROUND, _POPULATION)


def _ours(stage: Stage, positions: Positions, seconds: float, into: Series) -> None:
    url = _begun(stage)
    pair, check = stage.serve(url), partial(verify, url)
    try:
        _round(stage, pair.port, WEBHOOK_PATH, positions, _WARM_S, check)
        stage.settle()
        outcome = _round(stage, pair.port, WEBHOOK_PATH, positions, seconds, check)
        into.rates.append(outcome.rate_per_s)
        into.cpu_shares.append(outcome.cpu_share)
        into.alone_ms.append(_alone(stage, pair.port, WEBHOOK_PATH, positions))
    finally:
        pair.stop()


def _as_a_table_is_made(database_url: str) -> str:
    """Have PostgreSQL store bodies as it does unless it is told otherwise: the service's tables take them as compressed."""
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE stripe_events ALTER COLUMN payload SET STORAGE EXTENDED")
        connection.execute("ALTER TABLE stripe_events RESET (toast_tuple_target)")
    return database_url


def _round(
    stage: Stage, port: int, path: str, positions: Positions, seconds: float, check: Callable[[Stream, Outcome], None]
) -> Outcome:
    count = int(_MOST_A_SECOND * seconds)
    stream = positions.take(count)
    outcome = stage.generators.run(Load(port, path, stage.secret, stream, count, IN_FLIGHT, seconds))
    check(stream, outcome)
    return outcome


def _trust(_stream: Stream, outcome: Outcome) -> None:
    """What the mirror acknowledged is not searched for: it keeps rows of objects, not events."""
    if outcome.refused:
        raise BenchmarkError(f"the mirror refused {outcome.refused} of {outcome.sent} webhooks")


def _alone(stage: Stage, port: int, path: str, positions: Positions) -> float:
    """Give the median of one request at a time, in milliseconds."""
    stream = positions.take(_ALONE_COUNT)
    outcome = stage.generators.run(Load(port, path, stage.secret, stream, _ALONE_COUNT, 1, 30.0))
    return outcome.percentile_s(0.5) * 1000


def _report(customers: int, ours: Series, theirs: Series, plain: Series, whole: Series) -> dict[str, object]:
    median = statistics.median
    report: dict[str, object] = {
        "customers": customers,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "types": [INVOICE, SUBSCRIPTION, SESSION],
        "ours_per_s": round(median(ours.rates)),
        "ours_alone_ms": round(median(ours.alone_ms), 2),
        "generator_share": round(median(ours.cpu_shares), 3),
        "pgbench_per_s": round(median(plain.rates)),
        "pgbench_alone_ms": round(median(plain.alone_ms), 2),
        "ours_over_pgbench": round(median([a / b for a, b in zip(ours.rates, plain.rates, strict=True)]), 2),
        "pgbench_whole_bodies_per_s": round(median(whole.rates)),
        "ours_over_pgbench_whole_bodies": round(
            median([a / b for a, b in zip(ours.rates, whole.rates, strict=True)]), 2
        ),
    }
    if theirs.rates:
        report |= {
            "mirror_per_s": round(median(theirs.rates)),
            "mirror_alone_ms": round(median(theirs.alone_ms), 2),
            "ours_over_mirror": round(median([a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]), 2),
            "alone_over_mirror": round(median([a / b for a, b in zip(ours.alone_ms, theirs.alone_ms, strict=True)]), 2),
            "pgbench_alone_over_mirror": round(
                median([a / b for a, b in zip(plain.alone_ms, theirs.alone_ms, strict=True)]), 2
            ),
        }
    return report


if __name__ == "__main__":
    sys.exit(main())
