"""Logs are JSON lines that say what happened and quote nobody."""

from __future__ import annotations

import json
import re
import subprocess
import sys

_PROGRAM = """
import logging, structlog
from webhook_gateway.logs import configure_logs
configure_logs()
log = structlog.stdlib.get_logger("here")
log.info("taken", event_id="evt_1")
try:
    payload = "SECRET in a local"
    try:
        raise KeyError("SECRET in a cause")
    except KeyError as cause:
        raise ValueError("SECRET in a message") from cause
except ValueError as error:
    log.exception("broken")
    logging.getLogger("aiohttp.server").error("Error handling request from %s", "SECRET address", exc_info=error)
"""


def test_an_exception_is_told_by_type_and_place_and_quotes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert not done.stdout
    assert "SECRET" not in done.stderr
    taken, broken, foreign = (json.loads(line) for line in done.stderr.splitlines())
    assert (taken["event"], taken["event_id"], taken["level"]) == ("taken", "evt_1", "info")
    assert list(taken) == ["event_id", "event", "level", "logger", "time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", taken["time"])
    assert (broken["level"], broken["logger"]) == ("error", "here")
    assert broken["exception"]["type"] == "builtins.ValueError"
    assert broken["exception"]["cause"] == "builtins.KeyError"
    assert broken["exception"]["frames"][0].endswith("<module>")
    assert foreign["exception"]["type"] == "builtins.ValueError"
