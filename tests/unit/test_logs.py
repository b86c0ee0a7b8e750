"""A log line is one JSON object, and holds nothing that an exception or a library was filled with."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

_PROGRAM = """
import logging, structlog
from billing_service.logs import configure_logs
configure_logs("INFO")
log = structlog.stdlib.get_logger("billing_service.test")
structlog.contextvars.bind_contextvars(call_id="call-1")
log.debug("unseen")
log.info("seen", method="M")
def fail():
    try:
        raise KeyError("hunter2")
    except KeyError as error:
        raise RuntimeError("hunter2") from error
try:
    fail()
except RuntimeError:
    log.exception("failed")
logging.getLogger("library").warning("request %s failed", "hunter2")
logging.getLogger("stripe").info("hunter2")
logging.getLogger("httpx").info("hunter2")
"""


def test_lines_are_json_with_utc_times_and_without_what_may_be_secret_or_personal() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert run.stdout == ""
    assert "hunter2" not in run.stderr
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("seen", "info", "billing_service.test"),
        ("failed", "error", "billing_service.test"),
        ("request %s failed", "warning", "library"),
    ]
    assert all(datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0) for line in lines)
    assert lines[0]["call_id"] == "call-1"
    assert [raised["type"] for raised in lines[1]["exception"]] == ["builtins.RuntimeError", "builtins.KeyError"]
    assert "fail" in lines[1]["exception"][0]["frames"][-1]
