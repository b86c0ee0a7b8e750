"""`billing` as an operator runs it: as a process, from a script or at a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from billing_cli.program import app
from typer.testing import CliRunner

from tests.acceptance.world import ROOT

_LIMIT_S = 60.0
_PATHS = (ROOT, ROOT / "clients/python", ROOT / "clients/cli")
COMMAND = (sys.executable, "-m", "billing_cli")


@dataclass(frozen=True)
class Ran:
    """How a command ended: its exit code, its report, and what it said beside."""

    code: int
    out: str
    said: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The report of a command with --json."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def row(self) -> dict[str, Any]:
        """The report where it has one object."""
        (found,) = self.rows
        return found


class Operator:
    """Somebody with a token of the role admin, in a file."""

    def __init__(self, addresses: Mapping[str, str], folder: Path) -> None:
        """Take where everything is, and where files may be put."""
        self._folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("BILLING_", "COLUMNS"))},
            "PYTHONPATH": os.pathsep.join(map(str, _PATHS)),
            "BILLING_ADMIN_TARGET": addresses["internal"],
            "BILLING_ADMIN_OPS": addresses["ops"].partition("//")[2],
            "BILLING_ADMIN_PUBLIC_TARGET": addresses["grpc"],
            "BILLING_ADMIN_TOKEN_FILE": self.secret("admin_token", addresses["admin_token"]),
            "BILLING_ADMIN_CALLER_TOKEN_FILE": self.secret("grpc_token", addresses["grpc_token"]),
            "BILLING_ADMIN_ACTOR": "ada",
        }

    def secret(self, name: str, token: str) -> str:
        """Put a token into a file, and give its path."""
        path = self._folder / name
        path.write_text(token)
        return str(path)

    def having(self, **variables: str) -> Self:
        """Give the same operator with other BILLING_ADMIN_ variables; an empty one is taken away."""
        other = object.__new__(type(self))
        named = {f"BILLING_ADMIN_{name.upper()}": value for name, value in variables.items()}
        kept = {name: value for name, value in (self.environment | named).items() if value}
        other._folder, other.environment = self._folder, kept
        return other

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """Start a command without a terminal."""
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *words,
            cwd=ROOT,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *words: str) -> Ran:
        """Run a command as a process, without a terminal; it never ends in a traceback."""
        process = await self.start(*words)
        async with asyncio.timeout(_LIMIT_S):
            out, said = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in said, said.decode()
        return Ran(process.returncode, out.decode(), said.decode())

    def call(self, *words: str) -> Ran:
        """Run a command in this process, which saves the time to start one: the service, and the way to it, are the real ones."""
        known = {name: value for name, value in self.environment.items() if name.startswith("BILLING_ADMIN_")}
        # Nor is there a terminal whose width somebody said, as pytest's workers do.
        absent = dict.fromkeys(name for name in os.environ if name.startswith(("BILLING_ADMIN_", "COLUMNS")))
        ran = CliRunner().invoke(app, words, prog_name="billing", env={**absent, **known})
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return Ran(ran.exit_code, ran.stdout, ran.stderr)

    def done(self, *words: str) -> Ran:
        """Run a command that has to succeed."""
        ran = self.call(*words)
        assert ran.code == 0, (words, ran)
        return ran

    async def at_terminal(self, *words: str, typed: str = "", columns: int = 100) -> tuple[int, str]:
        """Run a command at a terminal, with what is typed once it asks; give its exit code and all that was on the screen."""
        return await asyncio.to_thread(self._at_terminal, words, typed, columns)

    def _at_terminal(self, words: tuple[str, ...], typed: str, columns: int) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        environment = self.environment | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
        with subprocess.Popen(
            [*COMMAND, *words], cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
        ) as process:
            os.close(theirs)
            seen = b""
            while chunk := _read(ours):
                seen += chunk
                if typed and seen.endswith(b"to do it: "):
                    os.write(ours, f"{typed}\n".encode())
                    typed = ""
            code = process.wait(_LIMIT_S)
        os.close(ours)
        return code, seen.decode()


def _read(terminal: int) -> bytes:
    """Read what is there; nothing where the other side has closed, which Linux tells by an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


async def interrupt(process: asyncio.subprocess.Process) -> Ran:
    """Press Ctrl-C, and wait for the end."""
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(_LIMIT_S):
        out, said = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), said.decode())
