"""The commands of an operator who repairs, as processes: reports on standard output, and an exit code that can be relied on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import psycopg
import pytest

from tests.integration.program.conftest import KEY, ROOT
from tests.stripe_events import purchase

NOWHERE = "http://127.0.0.1:9"


async def run(database_url: str, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command; give its exit code, its report, and what it said beside."""
    environment = os.environ | {
        "BILLING_DATABASE_URL": database_url,
        "BILLING_STRIPE_API_KEY": KEY,
        "BILLING_STRIPE_API_BASE": NOWHERE,
        "BILLING_CATALOG": str(ROOT / "catalog.toml"),
        # No token, and files that are not there: whoever repairs has none of the service's listeners, and need not have what is theirs.
        "BILLING_TLS_CERTIFICATE": "/nowhere/tls.crt",
        "BILLING_ACCESS_FILE": "/nowhere/access.toml",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", *words, "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=ROOT,
    )
    out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in out.splitlines()], errors.decode()


@pytest.fixture
def quarantined(database_url: str) -> str:
    """A database with a good event in quarantine, and one that nobody understands."""
    with psycopg.connect(database_url) as connection:
        for key, body, reason in (("good", purchase("ann")[0], "unwritable"), ("bad", b"{}", "malformed")):
            connection.execute(
                "INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES (%s, %s, %s, 'x')",
                (key, body, reason),
            )
        connection.execute("INSERT INTO findings (kind, subject, detail) VALUES ('drift', 'sub_1', '{}')")
    return database_url


async def test_the_quarantine_is_listed_and_not_changed(quarantined: str) -> None:
    for _ in range(2):
        code, rows, said = await run(quarantined, "quarantine")
        assert (code, {row["event_key"] for row in rows}) == (0, {"good", "bad"})
        assert "1 malformed, 1 unwritable" in said


async def test_a_replay_is_a_success_only_where_nothing_failed_again(quarantined: str) -> None:
    code, (report,), _ = await run(quarantined, "replay", "--reason", "unwritable")
    assert (code, report) == (0, {"replayed": 1, "applied": 1})
    code, (report,), _ = await run(quarantined, "replay", "--all")
    assert (code, report) == (1, {"replayed": 1, "quarantined": 1})
    code, rows, said = await run(quarantined, "replay", "--event", "nobody")
    assert (code, rows) == (1, [])
    assert "nobody" in said


async def test_what_was_discarded_is_neither_listed_nor_replayed_with_all(quarantined: str) -> None:
    """But where it is named."""
    with psycopg.connect(quarantined) as connection:
        connection.execute("UPDATE quarantined_events SET discard_time = now() WHERE event_key = 'good'")
    code, rows, said = await run(quarantined, "quarantine")
    assert (code, [row["event_key"] for row in rows], "unwritable" in said) == (0, ["bad"], False)
    code, (report,), _ = await run(quarantined, "replay", "--all")
    assert (code, report) == (1, {"replayed": 1, "quarantined": 1})
    code, (report,), _ = await run(quarantined, "replay", "--event", "good")
    assert (code, report) == (0, {"replayed": 1, "applied": 1})


async def test_a_finding_can_be_closed_once_and_only_with_who_and_why(quarantined: str) -> None:
    code, rows, _ = await run(quarantined, "findings")
    assert (code, [row["subject"] for row in rows]) == (0, ["sub_1"])
    close = ("findings", "--close", "drift", "sub_1")
    for half, missing in (((), "--actor"), (("--actor", "eve"), "--because"), (("--because", "looked"), "--actor")):
        code, _, said = await run(quarantined, *close, *half)
        assert (code, said) == (1, f"{missing} is required.\n")
    assert (await run(quarantined, *close, "--actor", "eve", "--because", "looked"))[0] == 0
    assert (await run(quarantined, *close, "--actor", "eve", "--because", "looked"))[0] == 1
    with psycopg.connect(quarantined) as connection:
        kept = connection.execute("SELECT operation, actor, reason, identity FROM operator_requests").fetchall()
    assert kept == [("close_finding", "eve", "looked", None)]
    assert (await run(quarantined, "findings"))[1] == []
    assert len((await run(quarantined, "findings", "--all"))[1]) == 1
    code, _, said = await run(quarantined, "findings", "--close", "gossip", "sub_1")
    assert (code, "bought_twice" in said) == (1, True)


async def test_a_reconciliation_that_cannot_reach_stripe_fails_in_a_sentence(database_url: str) -> None:
    code, rows, said = await run(database_url, "reconcile")
    assert (code, rows) == (1, [])
    assert "was broken off" in said
    assert "Traceback" not in said
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT state FROM reconcile_runs").fetchall() == [("failed",)]


@pytest.mark.parametrize("words", [["reconcile", "--since", "yesterday"], ["replay"], ["reconcile", "--since", "4"]])
async def test_words_that_are_not_understood_are_answered_with_what_is(database_url: str, words: list[str]) -> None:
    code, rows, said = await run(database_url, *words)
    assert (code, rows) == (2, [])
    assert "4d" in said or "--event" in said
