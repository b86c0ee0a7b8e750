"""Runs of the reconciliation: how far each came, and what it found. A run that failed anywhere is never complete."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from billing_service.storage.database import Connection


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    STOPPED = "stopped"  # by request or by a crash of its process; it can be resumed
    FAILED = "failed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class Run:
    """One walk over Stripe's events created in [since, until), unix seconds; `done_until` is how far it came."""

    run_id: int
    since: int
    until: int
    done_until: int
    state: RunState
    found: int = 0  # events at Stripe
    repaired: int = 0  # of these, the ones that were not here and are now
    failed: int = 0  # of these, the ones that could not be taken in
    drift: int = 0  # customers whose entitlements changed by it

    def plus(self, *, found: int, repaired: int, failed: int, drift: int) -> Run:
        """Give the run with these counts added."""
        return replace(
            self,
            found=self.found + found,
            repaired=self.repaired + repaired,
            failed=self.failed + failed,
            drift=self.drift + drift,
        )


_COLUMNS = "run_id, since, until, done_until, state, found, repaired, failed, drift"
_BEGIN = sa.text(f"""
    INSERT INTO reconcile_runs (since, until, done_until, state) VALUES (:since, :until, :since, 'running')
    RETURNING {_COLUMNS}
""")  # noqa: S608 - the columns are a constant of this module, here and below
_SAVE = sa.text("""
    UPDATE reconcile_runs
    SET done_until = :done_until, state = :state, found = :found, repaired = :repaired, failed = :failed,
        drift = :drift, update_time = now()
    WHERE run_id = :run_id
""")
_LAST_UNFINISHED = sa.text(f"""
    SELECT {_COLUMNS} FROM reconcile_runs WHERE state <> 'complete' ORDER BY run_id DESC LIMIT 1
""")  # noqa: S608
_LAST_COMPLETE = sa.text("SELECT max(until) FROM reconcile_runs WHERE state = 'complete'")
_UNKNOWN = sa.text("""
    SELECT id FROM unnest(CAST(:ids AS text[])) AS id
    WHERE NOT EXISTS (SELECT 1 FROM stripe_events WHERE event_id = id)
""")


async def begin(connection: Connection, since: int, until: int) -> Run:
    """Begin a run."""
    return _run((await connection.execute(_BEGIN, {"since": since, "until": until})).one())


async def save(connection: Connection, run: Run) -> None:
    """Write how far a run has come."""
    values = {key: value for key, value in vars(run).items() if key not in {"since", "until"}}
    await connection.execute(_SAVE, values | {"state": run.state.value})


async def last_unfinished(connection: Connection) -> Run | None:
    """Give the latest run that is not complete."""
    row = (await connection.execute(_LAST_UNFINISHED)).one_or_none()
    return None if row is None else _run(row)


async def last_complete_until(connection: Connection) -> int | None:
    """Say up to when everything was reconciled last."""
    until: int | None = await connection.scalar(_LAST_COMPLETE)
    return until


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
        found=row.found,
        repaired=row.repaired,
        failed=row.failed,
        drift=row.drift,
    )
