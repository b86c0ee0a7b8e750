"""An operator reconciles after an outage, is called away, and goes on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from billing_service.domain.catalog_file import parse_catalog
from tests.acceptance.operator import Operator, interrupt
from tests.acceptance.test_recovery import ALL_LOST, CATALOG_TEXT, live
from tests.acceptance.world import eventually
from tests.torture.plan import epoch_of
from tests.torture.reckoning import reckon
from tests.torture.stage import Stage

pytestmark = pytest.mark.slow

SETTINGS = {
    "BILLING_RECONCILE_INTERVAL_S": "86400",  # the service's own walk would be quicker than the operator
    "BILLING_STRIPE_BACKGROUND_RATE": "2",  # requests to Stripe in a second: there is time to be called away
}


@pytest.fixture
def folder(reachable_folder: Path) -> Path:
    """A folder that the database's user may look into."""
    made = Path(mkdtemp(dir=reachable_folder))
    made.chmod(0o711)
    return made


async def test_ctrl_c_stops_a_reconciliation_and_the_same_command_goes_on_where_it_was(
    folder: Path, tmp_path: Path
) -> None:
    """It shows how far it is; the service records that it was stopped, and nobody is left with anything but Stripe's truth."""
    epoch = epoch_of(7, 0, customers=4, rounds=2)
    command = ("reconcile", "--since", "20d", "--json")  # the clock there is two days ahead of ours
    async with Stage(folder, SETTINGS) as stage:
        operator = Operator(stage.addresses, tmp_path)
        await stage.control("faults", **ALL_LOST)
        await live(stage, epoch, 2)

        process = await operator.start(*command)
        assert process.stderr is not None
        async for line in process.stderr:  # how far it is, now and then
            if re.search(rb"under way, [1-9]\d*%", line):
                break
        stopped = await interrupt(process)
        assert (stopped.code, "goes on where it was" in stopped.said) == (130, True)

        async def last_run() -> dict[str, Any]:
            found: dict[str, Any] = (operator.done("runs", "list", "--limit", "1", "--json")).row
            return found

        first = await eventually(last_run, lambda run: run["state"] != "STATE_RUNNING")
        assert first["state"] == "STATE_STOPPED"
        second = (operator.done(*command)).row
        assert (second["state"], second["failed"]) == ("STATE_COMPLETE", "0")
        assert second["start_time"] > first["start_time"]  # what was done is not done again
        assert (await reckon(stage, parse_catalog(CATALOG_TEXT), epoch.customer_ids)).differing == {}


async def test_a_service_that_goes_away_ends_it_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    """The run is never told as complete."""
    async with Stage(folder, SETTINGS) as stage:
        operator = Operator(stage.addresses, tmp_path)
        process = await operator.start("reconcile", "--since", "29d")
        assert process.stderr is not None
        await process.stderr.readline()
        await asyncio.to_thread(stage.stack.service.kill)
        out, said = await process.communicate()
        assert (process.returncode, out) == (5, b"")
        assert b"goes on where it was" in said
