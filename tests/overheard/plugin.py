"""Keeps what is said while tests run, and fails the run where something in it may not be overheard.

In the process that runs the whole (xdist's controller, or the only one): the folder, what tests said while they were captured,
and the search. In each that runs tests: what gRPC and HTTP answer. In all of them children inherit the copying.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import pytest
from grpc._channel import _InactiveRpcError, _MultiThreadedRendezvous
from pydantic import SecretStr

from tests.overheard.search import MARK, Finding, search

FOLDER: Final = "OVERHEARD_FOLDER"
_CHILD: Final = str(Path(__file__).with_name("child"))
_PAGES: Final = ("/metrics", "/readyz", "/livez", "/webhooks/stripe")
_MOST_SHOWN: Final = 50
_findings = pytest.StashKey[list[Finding]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to listen."""
    if not _is_worker(config):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="billing-overheard-")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_CHILD, os.environ.get("PYTHONPATH"))))
    _listen()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what was captured: the last report of a test has all of it. xdist's controller gets those of its workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ and report.when == "teardown":
        for name, text in report.sections:
            keep("captured", f"{MARK}{report.nodeid} {name}\n{text}\n")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search, and fail the run where anything was found."""
    if _is_worker(session.config):
        return
    folder = Path(os.environ[FOLDER])
    found = session.config.stash[_findings] = search(folder)
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    else:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was found, masked; the files stay for whoever looks."""
    found = config.stash.get(_findings, [])
    if not found:
        return
    terminalreporter.section(f"{len(found)} lines that nobody may overhear, in {os.environ[FOLDER]}", red=True)
    for finding in found[:_MOST_SHOWN]:
        terminalreporter.line(str(finding))


def keep(name: str, text: str) -> None:
    """Keep what was said, in a file of this process."""
    folder = Path(os.environ.get(FOLDER, ""))
    if FOLDER in os.environ and folder.is_dir():
        with (folder / f"{name}-{os.getpid()}.log").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def note(secret: str) -> None:
    """Note a secret of the tests, which must not turn up anywhere."""
    folder = Path(os.environ.get(FOLDER, ""))
    if FOLDER in os.environ and folder.is_dir():
        with (folder / f"tests-{os.getpid()}.secrets").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{secret}\n")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _listen() -> None:
    """Hear what callers hear: errors of gRPC, pages of HTTP; know the secrets of settings; have all children listen."""
    _after(grpc.aio.AioRpcError, "__init__", _rpc_error)
    # Of the client without asyncio: that of a call is made when it failed, that of a stream is the stream itself.
    _after(_InactiveRpcError, "__init__", _rpc_error)
    setattr(_MultiThreadedRendezvous, "_next", _failing(_MultiThreadedRendezvous._next))  # noqa: B010 - it is a method to mypy
    _after(SecretStr, "__init__", lambda secret, _: _note_parts(secret.get_secret_value()))
    aiohttp.ClientResponse.read = _heard(aiohttp.ClientResponse.read)  # type: ignore[method-assign]
    popen = subprocess.Popen.__init__

    @wraps(popen)
    def started(self: Any, *arguments: Any, **named: Any) -> None:
        if named.get("env") is not None and FOLDER in os.environ:
            given = dict(named["env"])
            path = os.pathsep.join(filter(None, (_CHILD, given.get("PYTHONPATH"))))
            named["env"] = {**given, FOLDER: os.environ[FOLDER], "PYTHONPATH": path}
        popen(self, *arguments, **named)

    subprocess.Popen.__init__ = started  # type: ignore[method-assign]


def _after(kind: type, name: str, hear: Callable[[Any, Any], None]) -> None:
    original = getattr(kind, name)

    @wraps(original)
    def heard(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = original(self, *arguments, **named)
        hear(self, answer)
        return answer

    setattr(kind, name, heard)


def _failing(take: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(take)
    def heard(stream: Any) -> Any:
        try:
            return take(stream)
        except grpc.RpcError as error:
            _rpc_error(error, None)
            raise

    return heard


def _rpc_error(error: Any, _: Any) -> None:
    """Keep the error of a call: its code, details and trailing metadata, which the classes of both clients have."""
    trailing = " ".join(f"{key}={_text(value)}" for key, value in error.trailing_metadata() or ())
    keep("grpc-errors", f"{error.code().name} {error.details()} {trailing}\n")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _note_parts(value: str) -> None:
    if "://" not in value:
        for part in value.split(","):
            note(part.partition("=")[2] or part)


def _heard(read: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(read)
    async def heard(response: aiohttp.ClientResponse) -> bytes:
        body: bytes = await read(response)
        if response.url.path in _PAGES:
            keep("pages", f"{response.url.path} {response.status}\n{body.decode('utf-8', 'replace')}\n")
        return body

    return heard
