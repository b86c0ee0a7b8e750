"""What an event costs a customer who has few invoices, or one-time purchases, of his own, and one who has many, in one run.

    python -m benchmarks.owned --of invoices --each 1 10 100 1000 --rounds 6
    python -m benchmarks.owned --of purchases --each 1 10 100 --rounds 6

As in `benchmarks.growth`, whose rounds these are; here every database has as many customers, and each of them so many paid renewals, or
passes that were bought.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import population, results
from benchmarks.bodies import CUSTOMERS_A_GROUP, GROUP
from benchmarks.growth import Size, add_arguments, measure, wait
from benchmarks.stage import Stage

# Of a database that is put back before each round; with more, one more of each is no matter.
LARGEST_COPY: Final = 20_000
ADD: Final = {"invoices": population.add_renewals, "purchases": population.add_purchases}


def main() -> int:
    """Fill, measure, and say what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=sorted(ADD), default="invoices")
    parser.add_argument("--each", type=int, nargs="+", default=[1, 10, 100])
    add_arguments(parser, rounds=6, events=500)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Stage(folder) as stage:
            sizes = [fill(stage, chosen.of, each, chosen.events) for each in sorted(chosen.each)]
            wait(asked=chosen.wait)
            measure(stage, sizes, chosen.rounds, chosen.events)
    least = sizes[0].cpu_us_each
    results.write({"sizes": [_told(size, least) for size in sizes], "rounds": chosen.rounds}, chosen.out)
    return 0


def fill(stage: Stage, what: str, each: int, events: int) -> Size:
    """Make a database whose customers have so many of something each; a round meets all of them once."""
    customers = events // GROUP * CUSTOMERS_A_GROUP
    name = f"{what}_{each}"
    url = stage.database(name, customers, events_each=1)
    if each > 1:
        ADD[what](url, stage.recording, customers, each - 1)
    sys.stderr.write(f"{customers} customers with {each} {what} each are there\n")
    return Size(name, customers, is_renewed=each * customers <= LARGEST_COPY, each={f"{what}_each": each})


def _told(size: Size, least: list[float]) -> dict[str, Any]:
    ratios = [there / here for here, there in zip(least, size.cpu_us_each, strict=True)]
    return {**size.report(), "cpu_ratio": round(statistics.median(ratios), 2)}


if __name__ == "__main__":
    sys.exit(main())
