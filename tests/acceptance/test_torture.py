"""A short torture; the long ones are `make torture`."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.acceptance.world import ROOT

pytestmark = pytest.mark.slow  # kills whole programs; tests/integration/test_histories.py has random lives without any


async def test_random_lives_with_every_fault_and_crashes_end_at_stripes_own_state() -> None:
    """Real programs, killed along the way: no event is lost or applied twice, and nobody's entitlements differ."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.torture", "--json", "--seed", "5"),
        *("--deliveries", "1", "--customers", "14", "--rounds", "6"),  # one epoch
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{errors.decode()}"
    summary = json.loads(out.splitlines()[-1])
    assert {name: summary[name] for name in ("lost", "twice", "differing", "customers")} == {
        "lost": 0,
        "twice": 0,
        "differing": 0,
        "customers": 14,
    }
    assert summary["quarantined"] == 0
    assert {"drop", "duplicate", "reorder", "twin", "old_version"} <= set(summary["faults"])
    assert any(name.endswith("killed") for name in summary["faults"])
