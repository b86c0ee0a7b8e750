"""`python -m tests.torture --seed N --deliveries M`: real programs, random lives, every fault on, crashes along the way.

At the end nothing may be lost, applied twice, or differ from what the stand-in Stripe holds. The seed of a failure leads the
same lives again.
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
from contextlib import redirect_stderr
from pathlib import Path

from billing_service.domain.catalog_file import parse_catalog
from tests.torture.lives import Lives
from tests.torture.plan import Epoch, Round, epoch_of
from tests.torture.reckoning import Reckoning, flush, gather_anew, reckon
from tests.torture.stage import CATALOG, Stage

EPOCHS_LIMIT = 1_000
LIVES_AT_ONCE = 6
RETRY_PAUSE_S = 2.0  # of deliveries, so that a crash of two seconds costs no more than that
SHOWN = 5  # differences in full


def main(argv: Sequence[str] | None = None) -> int:
    """Run until enough deliveries were made; give 0 when everything holds, 1 when something does not."""
    options = _options(argv)
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    folder.chmod(0o711)  # PostgreSQL, which does not run as root, must get through
    log = folder / "programs.log"
    clean = False
    try:
        with log.open("w", buffering=1) as lines, redirect_stderr(lines):
            clean = asyncio.run(_run(options, folder))
    finally:
        _leave(folder, log, keep=options.keep or not clean)
    return 0 if clean else 1


def _leave(folder: Path, log: Path, *, keep: bool) -> None:
    """Clear the folder away, or say what is in it."""
    if keep:
        _say(f"The programs' log is {log}; the stand-in's journal is {folder / 'stripe.json'}")
    else:
        home = (folder / "postgres").resolve()  # beside the folder, where the server's user may not look into it
        for path in {home, folder}:
            shutil.rmtree(path, ignore_errors=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="which lives are led (default: %(default)s)")
    parser.add_argument("--deliveries", type=int, default=5_000, help="go on until so many were made (%(default)s)")
    parser.add_argument("--customers", type=int, default=40, help="new ones in each epoch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="of each epoch (%(default)s)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that went well")
    return parser.parse_args(argv)


async def _run(options: argparse.Namespace, folder: Path) -> bool:
    catalog = parse_catalog(CATALOG.read_text(encoding="utf-8"))
    began = time.monotonic()
    crashes: Counter[str] = Counter()
    customers: list[str] = []
    async with Stage(folder) as stage:
        await stage.control("webhooks", longest_pause_s=RETRY_PAUSE_S)
        lives = Lives(stage)
        found = Reckoning()
        for number in range(EPOCHS_LIMIT):
            epoch = epoch_of(options.seed, number, options.customers, options.rounds)
            customers += epoch.customer_ids
            await _live(stage, lives, epoch, crashes)
            await flush(stage, epoch.repair)
            found = await reckon(stage, catalog, epoch.customer_ids)
            _progress(epoch, found, time.monotonic() - began)
            if not found.is_clean or found.deliveries >= options.deliveries:
                break
        if found.is_clean:
            await gather_anew(stage)
            found = await reckon(stage, catalog, customers)
        faults = (await stage.ask("faults"))["counts"]
        summary = _summary(options, found, {**faults, **_killed(crashes)}, lives, stage.findings())
    _report(summary, found, as_json=options.json)
    return found.is_clean


async def _live(stage: Stage, lives: Lives, epoch: Epoch, crashes: Counter[str]) -> None:
    await stage.control("settings", **epoch.settings)
    await stage.control("faults", **epoch.faults)
    for one in epoch.rounds:
        await _live_round(stage, lives, one)
        if one.crash is not None:
            crashes[one.crash] += 1
        await stage.control("clock", advance_s=one.advance_s)


async def _live_round(stage: Stage, lives: Lives, one: Round) -> None:
    """Lead the round's lives, several at once; in the middle of it, while they go on, something is killed."""
    slots = asyncio.Semaphore(LIVES_AT_ONCE)
    half = len(one.steps) // 2
    passed = asyncio.Event()

    async def lead(index: int) -> None:
        async with slots:
            if index == half:
                passed.set()
            await lives.lead(one.steps[index])

    running = [asyncio.create_task(lead(index)) for index in range(len(one.steps))]
    await passed.wait()
    if one.crash is not None:
        stage.crash(one.crash)
    await asyncio.gather(*running)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _killed(crashes: Counter[str]) -> dict[str, int]:
    return {f"{what} killed": count for what, count in sorted(crashes.items())}


def _progress(epoch: Epoch, found: Reckoning, seconds: float) -> None:
    state = "all as it must be" if found.is_clean else "NOT as it must be"
    _say(
        f"epoch {epoch.number}: {found.deliveries} deliveries of {found.events} events, "
        f"repaired by {epoch.repair}, {found.compared} customers compared, {state} ({seconds:.0f} s)",
    )


def _summary(
    options: argparse.Namespace,
    found: Reckoning,
    faults: dict[str, int],
    lives: Lives,
    findings: dict[str, int],
) -> dict[str, object]:
    return {
        "seed": options.seed,
        "deliveries": found.deliveries,
        "events": found.events,
        "lost": len(found.lost),
        "twice": len(found.twice),
        "quarantined": len(found.quarantined),
        "customers": found.compared,
        "differing": len(found.differing),
        "faults": dict(sorted(faults.items())),
        "deeds": dict(sorted(lives.counts.items())),
        "refusals": dict(sorted(lives.refusals.items())),
        "findings": findings,
    }


def _report(summary: dict[str, object], found: Reckoning, *, as_json: bool) -> None:
    for customer_id, text in list(found.differing.items())[:SHOWN]:
        _say(f"--- {customer_id} {text}")
    for name in ("lost", "twice", "quarantined"):
        ids = getattr(found, name)
        if ids:
            _say(f"{name}: {', '.join(ids[:SHOWN])}")
    for name, value in summary.items():
        _say(f"{name:>12}: {value}")
    if as_json:
        _say(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
