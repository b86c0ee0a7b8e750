"""A replicated PostgreSQL loses its primary; `make failover` tells the times too."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.acceptance.world import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("course", [(), ("--cut-off",)], ids=["at once", "cut off before"])
async def test_a_failover_loses_nothing_that_was_acknowledged(course: tuple[str, ...]) -> None:
    """The primary dies under load, its synchronous standby is promoted: every acknowledged event is there, once.

    The programs find the new primary by themselves. Nothing is acknowledged that a standby which was cut off does not have.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.failover", "--notice-s", "0.5", *course),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{errors.decode()}"
    outcome = json.loads(out)
    assert (outcome["lost"], outcome["twice"], outcome["incomplete"]) == (0, 0, 0)
    assert outcome["acknowledged"] >= 300
