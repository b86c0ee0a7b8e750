"""The service may have as many sockets open as its bounds of connections add up to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from billing_service.descriptors import NEEDED

_PROGRAM = """
import resource
from billing_service import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
descriptors.allow()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "left", "told"),
    [(256, NEEDED, NEEDED, False), (256, 1_000, 1_000, True), (NEEDED, NEEDED, NEEDED, False)],
)
def test_it_takes_what_it_needs_as_far_as_the_system_lets_it(soft: int, hard: int, left: int, told: bool) -> None:
    """Where that is too little, the log says so."""
    program = _PROGRAM.format(soft=soft, hard=hard)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    lines = ran.stdout.splitlines()
    assert (int(lines[-1]), "few_open_files" in ran.stdout + ran.stderr) == (left, told)
