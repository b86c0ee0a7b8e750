"""`python -m tests.callers --seed N --lives M`: customers' lives through the API, with everything that goes wrong on the way.

After each call the stand-in Stripe must have what was answered; at rest everybody has what Stripe says. A life's number leads it again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from billing_service.storage.schema import migrate
from sandbox.postgres import FORGETFUL, EmbeddedPostgres
from tests.callers.life import Life
from tests.callers.stage import Stage

_TEMPLATE = "billing_template"


def main(argv: Sequence[str] | None = None) -> int:
    """Lead the lives; give 0 when everything held in all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.callers", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="the number of the first life (default: %(default)s)")
    parser.add_argument("--lives", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of each (default: %(default)s)")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="callers-"))
    folder.chmod(0o711)  # PostgreSQL, which does not run as root, must get through
    counts: Counter[str] = Counter()
    failed = 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with EmbeddedPostgres(folder / "postgres", settings=FORGETFUL) as server:
            migrate(server.ensure_database(_TEMPLATE))
            for number in range(options.seed, options.seed + options.lives):
                failed += not asyncio.run(_led(server, number, options.steps, counts))
    finally:
        home = (folder / "postgres").resolve()  # beside the folder, where the server's user may not look into it
        for path in {home, folder}:
            shutil.rmtree(path, ignore_errors=True)
    for name, count in sorted(counts.items()):
        _say(f"{count:>8} {name.removeprefix('_')}")
    _say(
        f"{options.lives} lives, {failed} NOT as they must be"
        if failed
        else f"{options.lives} lives, all as they must be"
    )
    return 1 if failed else 0


async def _led(server: EmbeddedPostgres, number: int, steps: int, counts: Counter[str]) -> bool:
    """Lead one life in a database of its own, and say whether everything held."""
    name, template = sql.Identifier(f"life_{number}"), sql.Identifier(_TEMPLATE)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(name, template))
        try:
            async with Stage(server.url(f"life_{number}")) as stage:
                life = Life(stage, f"caller-{number}", random.Random(f"callers/{number}"))
                try:
                    await life.lead(steps)
                finally:
                    counts.update(life.counts)
        except Exception:  # noqa: BLE001 - whatever it is, it is told, and the next life is led
            _say(f"--- life {number}\n{traceback.format_exc()}")
            return False
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
    return True


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
