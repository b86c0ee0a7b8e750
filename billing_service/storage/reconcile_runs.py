"""Runs of the reconciliation: how far each came, and what it found. A run that failed anywhere is never complete."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from billing_service.storage.database import Connection

# Who says nothing for longer was killed: each object is recorded, which is asked for four times at the most.
ALIVE = timedelta(minutes=2)


class Scope(StrEnum):
    """What a run goes through."""

    EVENTS = "events"  # Stripe's list of events, by the time at which they were made
    SUBSCRIPTIONS = "subscriptions"  # ours that are not over, and Stripe's live ones
    PURCHASES = "purchases"  # ours and Stripe's, with their refunds and disputes
    CUSTOMER = "customer"  # everything of one


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    STOPPED = "stopped"  # by request or by a crash of its process; it can be resumed
    FAILED = "failed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Run:
    """One run. Over events: those created in [since, until), unix seconds, of which it came to `done_until`.

    Over objects the times are 0 and that of its beginning, and `position` is how far it came.
    """

    run_id: int
    since: int
    until: int
    done_until: int
    state: RunState
    scope: Scope = Scope.EVENTS
    position: str = ""
    found: int = 0  # events or objects at Stripe that were looked at
    repaired: int = 0  # of these, what was not known here as Stripe has it, and is now
    failed: int = 0  # of these, what could not be taken in
    drift: int = 0  # how often the entitlements of a customer changed by it
    denied: int = 0  # objects that Stripe does not show (any more); each is a finding

    def plus(self, *, found: int = 0, repaired: int = 0, failed: int = 0, drift: int = 0, denied: int = 0) -> Run:
        """Give the run with these counts added."""
        return replace(
            self,
            found=self.found + found,
            repaired=self.repaired + repaired,
            failed=self.failed + failed,
            drift=self.drift + drift,
            denied=self.denied + denied,
        )


_COLUMNS = "run_id, since, until, done_until, state, scope, position, found, repaired, failed, drift, denied"
_BEGIN = sa.text(f"""
    INSERT INTO reconcile_runs (since, until, done_until, state, scope)
    VALUES (:since, :until, :since, 'running', :scope)
    RETURNING {_COLUMNS}
""")  # noqa: S608 - the columns are a constant of this module, here and below
_SAVE = sa.text("""
    UPDATE reconcile_runs
    SET done_until = :done_until, state = :state, found = :found, repaired = :repaired, failed = :failed,
        drift = :drift, denied = :denied, position = :position, update_time = now()
    WHERE run_id = :run_id
""")
_LAST_UNFINISHED = sa.text(f"""
    SELECT {_COLUMNS} FROM reconcile_runs
    WHERE scope = :scope AND run_id > coalesce(
        (SELECT max(run_id) FROM reconcile_runs WHERE scope = :scope AND state = 'complete'), 0)
      AND (CAST(:within AS interval) IS NULL OR update_time > now() - CAST(:within AS interval))
      AND (state <> 'running' OR update_time < now() - CAST(:alive AS interval))
    ORDER BY run_id DESC LIMIT 1
""")  # noqa: S608
# A run covers what it came through, also one that was stopped: each event of that is recorded, or in quarantine. Its last minutes do not
# count: events become visible out of order. A run that began later than the cover reached leaves a gap, and what lies behind it does not count.
_COVERED = sa.text("""
    WITH first AS (
        SELECT until - :lead AS first, greatest(until - :lead, :oldest) AS begin
        FROM reconcile_runs WHERE scope = 'events' ORDER BY run_id LIMIT 1),
    runs AS (
        SELECT since, done_until - :overlap AS done, greatest(begin, max(done_until - :overlap) OVER (
            ORDER BY since, done_until ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS before
        FROM reconcile_runs, first WHERE scope = 'events' AND done_until - :overlap > begin)
    SELECT first, coalesce((SELECT min(before) FROM runs WHERE since > before), (SELECT max(done) FROM runs), begin) AS until FROM first
""")
_UNKNOWN = sa.text("""
    SELECT id FROM unnest(CAST(:ids AS text[])) AS id
    WHERE NOT EXISTS (SELECT 1 FROM stripe_events WHERE event_id = id)
""")


_FIND = sa.text(f"SELECT {_COLUMNS}, create_time, update_time FROM reconcile_runs WHERE run_id = :run_id")  # noqa: S608
_PAGE = sa.text(f"""
    SELECT {_COLUMNS}, create_time, update_time FROM reconcile_runs
    WHERE (CAST(:scope AS text) IS NULL OR scope = :scope) AND (CAST(:before AS bigint) IS NULL OR run_id < :before)
    ORDER BY run_id DESC LIMIT :most
""")  # noqa: S608


@dataclass(frozen=True)
class RecordedRun:
    """A run as it was last recorded."""

    run: Run
    create_time: datetime
    update_time: datetime


async def find(connection: Connection, run_id: int) -> RecordedRun | None:
    """Give a run, or None."""
    row = (await connection.execute(_FIND, {"run_id": run_id})).one_or_none()
    return None if row is None else RecordedRun(_run(row), row.create_time, row.update_time)


async def page(connection: Connection, scope: Scope | None, before: int | None, most: int) -> Sequence[RecordedRun]:
    """Give the next runs, the newest first, before a number."""
    values = {"scope": None if scope is None else scope.value, "before": before, "most": most}
    return [RecordedRun(_run(r), r.create_time, r.update_time) for r in await connection.execute(_PAGE, values)]


async def begin(connection: Connection, scope: Scope, since: int, until: int) -> Run:
    """Begin a run."""
    return _run((await connection.execute(_BEGIN, {"scope": scope.value, "since": since, "until": until})).one())


async def save(connection: Connection, run: Run) -> None:
    """Write how far a run has come."""
    values = {key: value for key, value in vars(run).items() if key not in {"since", "until", "scope"}}
    await connection.execute(_SAVE, values | {"state": run.state.value})


async def last_unfinished(connection: Connection, scope: Scope, within: timedelta | None = None) -> Run | None:
    """Give the latest run of a scope that did not come to its end, unless one after it did; only one that went on `within` that time.

    Not one at which another process is: two would write into one run.
    """
    values = {"scope": scope.value, "within": within, "alive": ALIVE}
    row = (await connection.execute(_LAST_UNFINISHED, values)).one_or_none()
    return None if row is None else _run(row)


@dataclass(frozen=True)
class Cover:
    """The events that were walked without a gap, in unix seconds."""

    first: int  # where it would begin if all runs counted
    until: int  # `first` where nothing was walked


async def cover(connection: Connection, oldest: int, *, lead_s: int, overlap_s: int) -> Cover | None:
    """Say up to when the events were walked without a gap, from `oldest`, or from `lead_s` before the first run if that is later.

    The last `overlap_s` of a run do not count. None where no run ever began.
    """
    row = (await connection.execute(_COVERED, {"oldest": oldest, "lead": lead_s, "overlap": overlap_s})).one_or_none()
    return None if row is None else Cover(row.first, row.until)


async def unknown_events(connection: Connection, event_ids: Collection[str]) -> set[str]:
    """Give those of these events that are not recorded here."""
    return {row.id for row in await connection.execute(_UNKNOWN, {"ids": sorted(event_ids)})}


def _run(row: sa.Row[Any]) -> Run:
    return Run(
        run_id=row.run_id,
        since=row.since,
        until=row.until,
        done_until=row.done_until,
        state=RunState(row.state),
        scope=Scope(row.scope),
        position=row.position,
        denied=row.denied,
        found=row.found,
        repaired=row.repaired,
        failed=row.failed,
        drift=row.drift,
    )
