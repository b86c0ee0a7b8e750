"""A log line is one JSON object, and holds nothing that an exception or a library was filled with."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from billing_service.domain.errors import (
    BillingError,
    CustomerNotFoundError,
    DatabaseUnavailableError,
    FieldViolation,
    InvalidFieldsError,
)
from billing_service.domain.json_fields import MalformedError
from billing_service.logs import named
from billing_service.storage.unwritable import UnwritableError
from billing_service.stripe_api.errors import StripeDefinite
from tools import log_errors

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
log.info("odd", half="\\ud800", long=2**70, thing=logging)
logging.getLogger("library").warning("request %s failed", "hunter2")
logging.getLogger("stripe").info("hunter2")
logging.getLogger("httpx").info("hunter2")
"""


@pytest.mark.parametrize("program", ["billing_service", "webhook_gateway"])
def test_a_line_that_cannot_be_written_fails_nobody(program: str) -> None:
    """The disk is full, or whoever reads the log has gone: what is logged about goes on."""
    source = f"""
import os, structlog
from {program}.logs import configure_logs
configure_logs()
log = structlog.stdlib.get_logger("here")
log.info("to a full disk")
reader, writer = os.pipe()
os.dup2(writer, 2), os.close(writer), os.close(reader)
log.warning("to nobody")
os._exit(7)
"""
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        run = subprocess.run([sys.executable, "-c", source], stderr=full, check=False, timeout=60)
    assert run.returncode == 7


def test_lines_are_json_with_utc_times_and_without_what_may_be_secret_or_personal() -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert run.stdout == ""
    assert "hunter2" not in run.stderr
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("seen", "info", "billing_service.test"),
        ("failed", "error", "billing_service.test"),
        ("odd", "info", "billing_service.test"),
        ("request %s failed", "warning", "library"),
    ]
    assert all(datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0) for line in lines)
    assert lines[0]["call_id"] == "call-1"
    assert (lines[2]["half"], lines[2]["long"]) == ("\ud800", str(2**70))  # never refused, whatever it is
    assert [raised["type"] for raised in lines[1]["exception"]] == ["builtins.RuntimeError", "builtins.KeyError"]
    assert "fail" in lines[1]["exception"][0]["frames"][-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CustomerNotFoundError("hunter2"), "CUSTOMER_NOT_FOUND"),
        (InvalidFieldsError([FieldViolation("customer_id", "hunter2")]), "INVALID_FIELDS"),
        (BillingError("hunter2", metadata={"customer_id": "hunter2"}), "INTERNAL"),
        (DatabaseUnavailableError(), "DATABASE_UNAVAILABLE"),
        (StripeDefinite("customers.retrieve", 404, message="no such customer: hunter2"), None),
        (MalformedError("items.data is not a list"), "items.data is not a list"),
        (UnwritableError("customers_id_length"), "customers_id_length"),
        (ValueError("hunter2"), "ValueError"),
    ],
)
def test_an_expected_error_is_named_without_what_somebody_asked_by(error: Exception, said: str | None) -> None:
    """The message for callers quotes a customer's id, and Stripe's what a customer typed: neither is for the log."""
    found = named(error)
    assert "hunter2" not in found
    assert found == (said or "customers.retrieve: Stripe answered 404")


def test_no_line_of_the_programs_has_the_text_of_an_exception() -> None:
    """Whatever it quotes would be in the log for good; `make lint` says so too."""
    assert log_errors.main() == 0


@pytest.mark.parametrize(
    "line",
    [
        "log.warning('x', error=str(error))",
        "_log.error('x', error=error)",
        "log.info(f'x {error}')",
        "log.exception('x', why=repr(error).lower())",
        "level('x', why=error.message)",
        "logging.info('x', error.args[0])",
        "log.warning('x', error=named(error), also={'why': [error]})",
    ],
)
def test_a_line_that_would_log_an_exception_by_its_text_is_found(line: str) -> None:
    handled = f"try:\n    go()\nexcept KeyError as error:\n    {line}\n"
    told = f"async def note(error: Exception) -> None:\n    {line}\n"
    assert [len(set(log_errors.problems("one.py", source))) for source in (handled, told)] == [1, 1]


@pytest.mark.parametrize(
    "line",
    [
        "log.warning('x', error=named(error))",
        "log.error('x', exc_info=error)",
        "log.critical('x', plans=error.holders, kind=type(error).__name__)",
        "respond(str(error))",
    ],
)
def test_a_line_that_names_an_exception_is_not_found(line: str) -> None:
    assert not list(log_errors.problems("one.py", f"try:\n    go()\nexcept KeyError as error:\n    {line}\n"))
