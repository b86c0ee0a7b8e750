"""Two services and two gateways are restarted in turn under load; `make rolling` goes on for longer."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.acceptance.world import ROOT

pytestmark = pytest.mark.slow


async def test_a_rolling_restart_fails_no_call_and_loses_no_event() -> None:
    """Callers read, check, buy and watch with the documented client meanwhile, and Stripe has to send nothing twice."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.rolling", "--rounds", "1", "--rate", "100"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{errors.decode()}"
    outcome = json.loads(out)
    assert (outcome["failed"], outcome["lost"], outcome["deliveries_failed"], outcome["restarts"]) == (0, 0, 0, 4)
