"""A short torture of watches; the long ones are `make watch-torture`."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.acceptance.world import ROOT

pytestmark = pytest.mark.slow


async def test_every_view_equals_the_database_whoever_was_killed_along_the_way() -> None:
    """Servers, clients and PostgreSQL are killed, time is moved and the log trimmed: no view has a gap or a repeat."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.watch_torture", "--seed", "5"),
        *("--changes", "300", "--customers", "40", "--between", "5", "25"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    summary = json.loads(out.splitlines()[-1])
    assert len(summary["faults"]) == 7
    assert summary["told"]["KIND_CHANGE"] > summary["changes"]
