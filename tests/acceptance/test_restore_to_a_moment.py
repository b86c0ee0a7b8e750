"""The database is lost by mistake under webhooks, and restored to a moment from a base backup and archived WAL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from billing.v1 import checkout_pb2

from billing_service.domain.catalog_file import parse_catalog
from tests.acceptance.test_recovery import CATALOG_TEXT, SETTINGS, command, handled_events, live, report
from tests.acceptance.test_restore import DELIVERED, delivered, forget
from tests.archived import Archive
from tests.torture.plan import epoch_of
from tests.torture.reckoning import reckon
from tests.torture.stage import Stage

pytestmark = pytest.mark.slow

LIMIT_S = 60
LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Known:
    """What the database knows in one snapshot, and when that was."""

    moment: datetime
    events: frozenset[str]
    history: frozenset[tuple[object, ...]]


def known(stage: Stage) -> Known:
    """Look at what must come back to the row."""
    with psycopg.connect(stage.stack.database_url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        events = connection.execute("SELECT event_id FROM stripe_events").fetchall()
        history = connection.execute("SELECT position, customer_id, revision, change_time FROM entitlement_changes")
        rows = frozenset(history.fetchall())
        # Last: everything that was seen was committed before it.
        (moment,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    assert isinstance(moment, datetime)
    return Known(moment, frozenset(event_id for (event_id,) in events), rows)


async def until_more(stage: Stage, before: Known) -> Known:
    """Wait until the database knows of an event that it did not."""
    async with asyncio.timeout(LIMIT_S):
        while not (now := known(stage)).events - before.events:  # noqa: ASYNC110  # as below
            await asyncio.sleep(LOOK_EVERY_S)
    return now


async def begin_to_buy(stage: Stage, customer_id: str) -> str:
    """Come to the page on which to pay, and give its id."""
    request = checkout_pb2.CreateCheckoutSessionRequest(
        request_id=str(uuid.uuid4()),
        customer_id=customer_id,
        plan_key="pro",
        price_key="weekly",
        success_url="https://shop.example/done",
        cancel_url="https://shop.example/plans",
    )
    answer = await stage.billing.CreateCheckoutSession(request, timeout=10)
    return str(answer.checkout_session.checkout_session_id)


async def refused(stage: Stage) -> None:
    """Wait until a webhook was answered with 503."""
    async with asyncio.timeout(LIMIT_S):
        while not any(one["last_status"] == 503 for one in (await stage.ask("webhooks"))["deliveries"]):  # noqa: ASYNC110  # across a socket nothing can be waited for
            await asyncio.sleep(LOOK_EVERY_S)


async def restored(stage: Stage, archive: Archive, moment: datetime) -> Known:
    """Do what docs/operations.md says after the services were stopped: restore, migrate; give what is known before they start."""
    archive.restore(stage.stack.postgres, moment)
    migration = await command(stage, "migrate")
    _, errors = await migration.communicate()
    assert migration.returncode == 0, errors.decode()
    return known(stage)


async def right_again(stage: Stage, customer_ids: Sequence[str]) -> None:
    """Do the rest of what docs/operations.md says: start the services, reconcile, look at the findings; then look at everybody."""
    stage.stack.service.start()
    stage.stack.service.wait_ready()
    runs = await report(stage, "reconcile", "--everything")
    assert [(run["scope"], run["state"], run["failed"]) for run in runs] == [
        (scope, "complete", 0) for scope in ("events", "subscriptions", "purchases")
    ]
    listed = await report(stage, "findings")
    assert {one["kind"] for one in listed} <= {"bought_twice", "drift"}, listed
    await delivered(stage)
    found = await reckon(stage, parse_catalog(CATALOG_TEXT), customer_ids)
    assert (found.twice, found.quarantined, found.differing) == ([], [], {})
    assert await handled_events(stage) <= stage.events().recorded.keys()


@pytest.fixture
def folder(reachable_folder: Path) -> Path:
    """A folder that the database's user may look into."""
    made = reachable_folder / "moment"
    made.mkdir(mode=0o711)
    return made


async def test_a_database_lost_by_mistake_comes_back_as_it_was_at_a_moment_and_the_rest_from_stripe(
    folder: Path,
) -> None:
    """Backup and moment are in the midst of webhooks, the gateway stays, and somebody pays while there is no database."""
    archive = Archive(folder / "archive")
    first, then, after = (epoch_of(17, number, customers=4, rounds=2) for number in range(3))
    async with Stage(folder, SETTINGS, archive.settings) as stage:
        await stage.control("faults", **DELIVERED)
        await stage.control("webhooks", longest_pause_s=1)
        await live(stage, first, 1)
        _, outcome = await asyncio.gather(
            live(stage, then, 1), asyncio.to_thread(archive.base_backup, stage.stack.postgres), return_exceptions=True
        )
        assert outcome is None
        await delivered(stage)
        living = asyncio.create_task(live(stage, after, 1))
        at_moment = await until_more(stage, known(stage))
        await living
        await stage.control(f"checkout/sessions/{await begin_to_buy(stage, 'later')}/complete", outcome="paid")
        session_id = await begin_to_buy(stage, "last")
        await delivered(stage)
        before_loss = known(stage)

        forget(stage)
        stage.stack.service.stop()
        paying = asyncio.create_task(stage.control(f"checkout/sessions/{session_id}/complete", outcome="paid"))
        await refused(stage)
        now_known = await restored(stage, archive, at_moment.moment)
        assert at_moment.events <= now_known.events < before_loss.events
        assert at_moment.history <= now_known.history < before_loss.history

        await paying
        everyone = (*first.customer_ids, *then.customer_ids, *after.customer_ids, "later", "last")
        await right_again(stage, everyone)
