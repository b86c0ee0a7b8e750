"""Four days of webhooks are lost; then an operator reconciles, and everything is right again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.observation import HANDLED_TYPES
from tests.acceptance.world import ROOT
from tests.torture.lives import Lives
from tests.torture.plan import Epoch, epoch_of
from tests.torture.reckoning import reckon
from tests.torture.stage import CATALOG, Stage

pytestmark = pytest.mark.slow

DAY_S = 86_400
CATALOG_TEXT = CATALOG.read_text()
SETTINGS = {
    "BILLING_RECONCILE_INTERVAL_S": "86400",  # the service's own walk would be quicker than the operator
    "BILLING_STRIPE_BACKGROUND_RATE": "100",
}
ALL_LOST = {"seed": 1, "deliveries": {"drop": 1.0}}


async def command(stage: Stage, *words: str) -> asyncio.subprocess.Process:
    """Start a command as the operator does, in the service's environment."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", *words),
        cwd=ROOT,
        env=os.environ | stage.stack.service_environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def report(stage: Stage, *words: str) -> list[dict[str, Any]]:
    """Run a command to its end, which must be a good one, and give its report."""
    process = await command(stage, *words, "--json")
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in out.splitlines()]


async def live(stage: Stage, epoch: Epoch, days: int) -> None:
    """Lead the lives of an epoch for so many days; nothing crashes, and nothing is heard of it."""
    lives = Lives(stage)
    for one in epoch.rounds:
        for step in one.steps:
            await lives.lead(step)
        await stage.control("clock", advance_s=days * DAY_S // len(epoch.rounds))


async def handled_events(stage: Stage) -> set[str]:
    """Give Stripe's events of the types that we use, from its own list."""
    found, after = set[str](), dict[str, str]()
    while True:
        page: Mapping[str, Any] = await stage.stripe("GET", "events", limit="100", **after)
        found |= {event["id"] for event in page["data"] if event["type"] in HANDLED_TYPES}
        if not page["has_more"]:
            return found
        after = {"starting_after": page["data"][-1]["id"]}


@pytest.fixture
def folder(reachable_folder: Path) -> Path:
    """A folder that the database's user may look into."""
    made = reachable_folder / "recovery"
    made.mkdir(mode=0o711)
    return made


async def test_four_lost_days_come_back_with_a_report_that_counts_them(folder: Path) -> None:
    """Also when the command is killed half-way and begun again: what was done is not done twice."""
    first, second = (epoch_of(7, number, customers=8, rounds=4) for number in range(2))
    catalog = parse_catalog(CATALOG_TEXT)
    async with Stage(folder, SETTINGS) as stage:
        await stage.control("faults", **ALL_LOST)
        await live(stage, first, 2)
        lost = len(await handled_events(stage))
        (run,) = await report(stage, "reconcile", "--since", "5d")
        assert {name: run[name] for name in ("state", "found", "repaired", "failed")} == {
            "state": "complete",
            "found": lost,
            "repaired": lost,
            "failed": 0,
        }
        assert (await reckon(stage, catalog, first.customer_ids)).differing == {}

        await live(stage, second, 2)
        killed = await command(stage, "reconcile", "--since", "5d")
        assert killed.stderr is not None
        await killed.stderr.readline()  # a slice is done, and more are to come
        killed.send_signal(signal.SIGKILL)
        await killed.communicate()
        (run,) = await report(stage, "reconcile")
        assert run["state"] == "complete"
        (again,) = await report(stage, "reconcile", "--since", "10d")
        assert (again["found"], again["repaired"]) == (len(await handled_events(stage)), 0)
        everyone = (*first.customer_ids, *second.customer_ids)
        found = await reckon(stage, catalog, everyone)
        assert (found.compared, found.differing) == (len(everyone), {})
        # What no event could have told any more: the same from the objects alone.
        runs = await report(stage, "reconcile", "--everything")
        assert {(run["scope"], run["state"], run["drift"]) for run in runs} == {
            ("events", "complete", 0),
            ("subscriptions", "complete", 0),
            ("purchases", "complete", 0),
        }
