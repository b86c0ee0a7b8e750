"""How fast a backlog is taken in after an outage, and what somebody who buys meanwhile notices of it.

    python -m benchmarks.backlog --events 100000

Events that Stripe made a day ago come with 64 under way at all times, as fast as they are answered; beside them 50 a second of what
happens now. Both are measured alone first. Every acknowledged event of both is searched for in the database.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import results
from benchmarks.bodies import Stream
from benchmarks.load import Load, Outcome
from benchmarks.stage import WEBHOOK_PATH, Pair, Stage
from benchmarks.webhooks import verify

IN_FLIGHT = 64
AGE_S = 86_400
LIVE_RATE_PER_S = 50.0
LIVE_IN_FLIGHT = 64
CHUNK_S = 10.0  # of live events, rendered just before: one that is two minutes old belongs to a backlog
LONGEST_S = 1_800.0


@dataclass
class Live:
    """What happens now, in chunks, and what came of it."""

    stage: Stage
    pair: Pair
    customers: int
    latencies_s: list[float] = field(default_factory=list)
    _next: int = 0

    def chunk(self) -> None:
        """Send for some seconds; see that all of it is recorded."""
        count = int(LIVE_RATE_PER_S * CHUNK_S)
        stream = Stream(self.stage.recording.templates, self.customers, self._next, series="l")
        self._next += count
        load = Load(
            self.pair.port, WEBHOOK_PATH, self.stage.secret, stream, count, LIVE_IN_FLIGHT, CHUNK_S * 3, LIVE_RATE_PER_S
        )
        outcome = self.stage.generators.run(load)
        verify(self.pair.database_url, stream, outcome)
        self.latencies_s += outcome.latencies_s

    def percentiles_ms(self) -> dict[str, float]:
        """Give median and p99 so far, and begin anew."""
        ordered = sorted(self.latencies_s)
        self.latencies_s = []
        return {f"p{share}": round(ordered[len(ordered) * share // 100] * 1000, 1) for share in (50, 99)}


def main() -> int:
    """Run, and print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=100_000)
    results.add_argument(parser)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        result = measure(folder, chosen.customers, chosen.events)
    results.write(result, chosen.out)
    return 0


def measure(folder: Path, customers: int, events: int) -> dict[str, object]:
    """Measure what happens now alone, then with the backlog beside it."""
    with Stage(folder) as stage:
        pair = stage.serve(stage.database("ours", customers))
        live = Live(stage, pair, customers)
        live.chunk()  # warm
        live.percentiles_ms()
        live.chunk()
        alone = live.percentiles_ms()
        stream = Stream(stage.recording.templates, customers, 0, created=int(time.time()) - AGE_S, series="b")
        load = Load(pair.port, WEBHOOK_PATH, stage.secret, stream, events, IN_FLIGHT, LONGEST_S)
        backlog = stage.generators.start(load)
        chunks = 0
        while not backlog.done():
            live.chunk()
            chunks += 1
            sys.stderr.write(f"{chunks * CHUNK_S:.0f} s: so far {len(live.latencies_s)} live events\n")
        outcome: Outcome = backlog.result()
        verify(pair.database_url, stream, outcome)
        return {
            "backlog_events": len(outcome.acknowledged),
            "backlog_per_s": round(outcome.rate_per_s),
            "live_per_s": LIVE_RATE_PER_S,
            "live_alone_ms": alone,
            "live_beside_backlog_ms": live.percentiles_ms(),
        }


if __name__ == "__main__":
    sys.exit(main())
