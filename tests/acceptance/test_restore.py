"""The database is lost and restored from a backup of two days before; then an operator reconciles."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from billing_service.domain.catalog_file import parse_catalog
from tests.acceptance.test_recovery import CATALOG_TEXT, SETTINGS, live, report
from tests.torture.plan import epoch_of
from tests.torture.reckoning import reckon
from tests.torture.stage import Stage

pytestmark = pytest.mark.slow

DELIVERED = {"seed": 1}


async def postgres_program(stage: Stage, name: str, *words: str) -> None:
    """Run one of PostgreSQL's programs as an operator does."""
    path = stage.stack.postgres._programs / "bin" / name
    process = await asyncio.create_subprocess_exec(path, *words, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


def forget(stage: Stage) -> None:
    """Lose the database."""
    with psycopg.connect(stage.stack.postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE billing WITH (FORCE)")


async def delivered(stage: Stage) -> None:
    """Wait until no webhook is on its way."""
    async with asyncio.timeout(60):
        while (await stage.ask("webhooks"))["pending"]:  # noqa: ASYNC110  # across a socket nothing can be waited for
            await asyncio.sleep(0.05)


@pytest.fixture
def folder(reachable_folder: Path) -> Path:
    """A folder that the database's user may look into."""
    made = reachable_folder / "restore"
    made.mkdir(mode=0o711)
    return made


async def test_what_was_lost_after_the_backup_comes_back_from_stripe(folder: Path, tmp_path: Path) -> None:
    """As docs/operations.md has it: pg_dump, the loss, pg_restore, reconcile, the start; then everybody has what Stripe says.

    Also what was acknowledged after the backup, which Stripe will not send again by itself.
    """
    before, after = (epoch_of(11, number, customers=6, rounds=4) for number in range(2))
    dump = str(tmp_path / "billing.dump")
    async with Stage(folder, SETTINGS) as stage:
        await stage.control("faults", **DELIVERED)
        await live(stage, before, 2)
        await delivered(stage)
        await postgres_program(stage, "pg_dump", "--format=custom", f"--file={dump}", stage.stack.database_url)
        await live(stage, after, 2)
        await delivered(stage)
        known = set(stage.events().recorded)

        stage.stack.service.stop()
        forget(stage)
        stage.stack.postgres.ensure_database("billing")
        await postgres_program(stage, "pg_restore", "--exit-on-error", f"--dbname={stage.stack.database_url}", dump)
        missing = known - set(stage.events().recorded)
        assert missing, "nothing happened after the backup"
        (run,) = await report(stage, "reconcile")
        assert (run["state"], run["failed"]) == ("complete", 0)
        assert missing & set(stage.events().recorded), (
            "before a service runs, so that nobody buys again what is not known yet"
        )
        stage.stack.service.start()
        stage.stack.service.wait_ready()
        for run in await report(stage, "reconcile", "--everything"):
            assert (run["state"], run["failed"]) == ("complete", 0)
        found = await reckon(stage, parse_catalog(CATALOG_TEXT), (*before.customer_ids, *after.customer_ids))
        assert found.differing == {}
