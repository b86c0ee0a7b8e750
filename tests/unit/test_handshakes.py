"""What gRPC's core says of a handshake becomes a word of ours, bounded in number; what else it says stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from billing_service.handshakes import Reason, Told, reason_of

ROOT = Path(__file__).parents[2]
HEAD = "I1129 17:32:02.294776    2310 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL"
CODE = ": error:1000007d:SSL routines:OPENSSL_internal:"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{HEAD}{CODE}CERTIFICATE_VERIFY_FAILED: certificate has expired", Reason.EXPIRED),
        (f"{HEAD}{CODE}CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", Reason.NOT_YET_VALID),
        (f"{HEAD}{CODE}CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", Reason.STRANGE),
        (f"{HEAD}{CODE}CERTIFICATE_VERIFY_FAILED: unsupported certificate purpose", Reason.UNSUITABLE),
        (f"{HEAD}{CODE}PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", Reason.NONE_SHOWN),
        (f"{HEAD}{CODE}HTTP_REQUEST: Invalid certificate verification context", Reason.NO_TLS),
        (f"{HEAD}{CODE}TLSV1_ALERT_UNKNOWN_CA: Invalid certificate verification context", Reason.REFUSED),
        (f"{HEAD}{CODE}hunter2: hunter2", Reason.OTHER),
        (HEAD, Reason.OTHER),
        ("E1129 17:32:02.294776    2310 chttp2_server.cc:1] something else", None),
        ("", None),
    ],
)
def test_a_line_of_the_core_becomes_one_of_a_few_words(line: str, reason: Reason | None) -> None:
    assert reason_of(line.encode()) is reason


def test_a_flood_of_one_reason_is_one_line_in_a_while_and_hides_no_other() -> None:
    told = Told()
    told.note(Reason.EXPIRED)
    assert told.due(100.0, 10.0) == {Reason.EXPIRED: 1}
    for _ in range(1_000):
        told.note(Reason.EXPIRED)
    told.note(Reason.NO_TLS)
    assert told.due(101.0, 10.0) == {Reason.NO_TLS: 1}
    assert told.due(110.0, 10.0) == {Reason.EXPIRED: 1_000}
    assert told.due(200.0, 10.0) == {}


_PROGRAM = f"""
import os, sys
from billing_service import handshakes
from billing_service.logs import configure_logs
import structlog
configure_logs("INFO")
log = structlog.stdlib.get_logger("billing_service.test")
structlog.contextvars.bind_contextvars(worker=7)
failed = []
log.info("before")
with handshakes.watched(failed.append, lambda: configure_logs("INFO")):
    log.info("within")
    sys.stderr.write("said by Python\\n")
    for _ in range(500):  # more than the pipe holds: whoever writes is not held up
        try:
            os.write(2, b"{HEAD}{CODE}CERTIFICATE_VERIFY_FAILED: certificate has expired\\n" * 10)
        except BlockingIOError:
            pass
    import time
    while not failed: time.sleep(0.01)
    os.write(2, b"said by the core\\nand its last wor")
log.info("after")
os.write(2, b"said later\\n")
print(len(failed), set(failed))
"""


def test_lines_of_handshakes_become_lines_of_the_log_and_all_others_stay_as_they_are() -> None:
    """However many come: nobody who writes waits, nothing of Python's takes that way, and the end loses nothing."""
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    count, reasons = run.stdout.split(maxsplit=1)
    lines = run.stderr.splitlines()
    ours = [json.loads(line) for line in lines if line.startswith("{")]
    assert reasons.strip() == "{<Reason.EXPIRED: 'certificate_expired'>}"
    assert [one["event"] for one in ours if one["event"] != "tls_handshake_failed"] == ["before", "within", "after"]
    told = [one for one in ours if one["event"] == "tls_handshake_failed"]
    assert sum(one["count"] for one in told) == int(count) > 0
    assert len(told) <= 2  # at once, and the rest at the end
    assert {(one["reason"], one["worker"], one["level"]) for one in told} == {("certificate_expired", 7, "warning")}
    others = [line for line in lines if not line.startswith("{")]
    assert sorted(others) == ["and its last wor", "said by Python", "said by the core", "said later"]
