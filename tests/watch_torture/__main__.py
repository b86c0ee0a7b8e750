"""`python -m tests.watch_torture --seed N --changes M`: real programs, killed at random, and views that must equal the database.

Two services and a PostgreSQL, client processes that follow all customers or some; changes by events and by time. No view may have
a gap or a repeat, and at the end each equals the database. The seed of a failure draws the same again; how the processes
interleave is the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.watch_torture.run import Options, Run
from tests.watch_torture.stage import Stage
from tests.watch_torture.views import BrokenPromiseError


def main(argv: Sequence[str] | None = None) -> int:
    """Run; give 0 when everything holds, 1 when something does not."""
    options = _options(argv)
    folder = Path(tempfile.mkdtemp(prefix="watch-torture-"))
    folder.chmod(0o711)  # PostgreSQL, which does not run as root, must get through
    try:
        return asyncio.run(_run(options, folder))
    finally:
        home = (folder / "postgres").resolve()  # beside the folder, where the server's user may not look into it
        for path in {home, folder}:
            shutil.rmtree(path, ignore_errors=True)


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.watch_torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="what happens (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=10_000, help="go on until so many were made (%(default)s)")
    parser.add_argument("--customers", type=int, default=1_000, help="of so many customers (%(default)s)")
    parser.add_argument(
        "--between", type=int, nargs=2, default=(50, 300), help="changes between two faults (%(default)s)"
    )
    found = parser.parse_args(argv)
    return Options(found.seed, found.changes, found.customers, tuple(found.between))


async def _run(options: Options, folder: Path) -> int:
    began = time.monotonic()
    run = Run(options, Stage(folder), _say)
    try:
        await run()
    except BrokenPromiseError as error:
        _say(f"FAILED with seed {options.seed}: {error}")
        return 1
    except BaseException:
        _say(f"FAILED with seed {options.seed}")
        raise
    finally:
        await run.close()
    _say(json.dumps(_summary(run, time.monotonic() - began)))
    return 0


def _summary(run: Run, seconds: float) -> dict[str, object]:
    told: Counter[str] = sum((view.counts for view in run.views), Counter())
    return {
        "seed": run.options.seed,
        "changes": run.changes,
        "customers": run.options.customers,
        "views": len(run.views),
        "seconds": round(seconds),
        "faults": {fault.value: count for fault, count in run.done.items()},
        "told": dict(sorted(told.items())),
    }


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
