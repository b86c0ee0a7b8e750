"""The operators' wheel has all of its command line, and asks for nothing of the service's."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from zipfile import Path as ZipPath

import pytest
from packaging.requirements import Requirement

from tests.acceptance.test_client_wheel import ROOT, run

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, billing_cli.program, billing_client
print(billing_cli.__file__, billing_client.__file__)
sys.exit(billing_cli.program.main(["--target", "127.0.0.1:9", "customer", "show", "ann"]))
"""


def built(project: str, folder: Path) -> Path:
    """Build a project's wheel and give its path."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / project, cwd=ROOT / project)
    (wheel,) = (folder / project).glob("*.whl")
    return wheel


def test_the_wheels_alone_give_a_command_that_says_what_to_do(tmp_path: Path) -> None:
    """Run from nothing but the two wheels, beside what they ask for."""
    wheels = [built(project, tmp_path) for project in ("clients/cli", "clients/python")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, wheels))}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "No service answers at 127.0.0.1:9" in ran.stderr) == (5, True), ran
    assert all(str(wheel) in ran.stdout for wheel in wheels)

    about = PathDistribution(ZipPath(wheels[0], "billing_cli-0.1.0.dist-info/"))
    assert {Requirement(line).name for line in about.requires or ()} == {
        "billing-client",
        "grpcio",
        "protobuf",
        "rich",
        "typer",
    }
    assert [(one.name, one.value) for one in about.entry_points] == [("billing", "billing_cli.program:main")]
