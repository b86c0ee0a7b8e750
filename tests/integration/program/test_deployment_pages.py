"""What the pages show of the deployment's commands is what the commands say: each is run, in the order of the page."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.program.commands import account, environment, shop
from tests.integration.program.conftest import ROOT

pytestmark = pytest.mark.slow

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Ids that Stripe draws, and the hash of the example, are not the page's to know.
_DRAWN = (
    (re.compile(r"\b(prod|price|bpc|we)_\w+"), r"\1_…"),
    (re.compile(r"\bcatalog [0-9a-f]{16}\b"), "catalog …"),
)


def masked(text: str) -> str:
    """Leave out of a text what differs each time."""
    for pattern, instead in _DRAWN:
        text = pattern.sub(instead, text)
    return text


def transcripts(page: Path) -> list[tuple[str, str]]:
    """Give the commands of a page with what it shows of each, in order."""
    found: list[tuple[str, str]] = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, said = part.partition("\n")
            found.append((command, said))
    return found


async def says(command: str, folder: Path, variables: dict[str, str]) -> str:
    """Run a command in a shell, and give all that it says, masked."""
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=variables,
        cwd=folder,
    )
    out, _ = await process.communicate()
    return masked(out.decode())


@pytest.mark.parametrize("name", ["catalog.md", "getting-started.md"])
async def test_every_command_that_a_page_shows_says_what_it_shows(name: str, database_url: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "billing-service"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m billing_service "$@"\n')
    program.chmod(0o755)
    shutil.copy(ROOT / "catalog.toml", tmp_path)
    await shop(database_url, "team-7", "team-8")
    shown = transcripts(ROOT / "docs" / name)
    assert shown
    async with account() as url:
        variables = {**environment(url, database_url), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        for command, said in shown:
            assert await says(command, tmp_path, variables) == said, command
