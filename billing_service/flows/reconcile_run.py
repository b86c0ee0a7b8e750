"""A run of the reconciliation: step after step, each recorded when it is done, and how it ended said truly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from billing_service.domain.errors import BillingError
from billing_service.logs import named
from billing_service.storage import reconcile_runs
from billing_service.storage.database import Database
from billing_service.storage.reconcile_runs import Run, RunState

STOP_LIMIT_S = 0.8  # for recording that a run was stopped: less than the stop of a program waits for its tasks

Progress = Callable[[Run], None]

log = structlog.get_logger(__name__)


class Walk:
    """A run under way. What it counts is recorded as it goes: whatever breaks it off takes nothing of that along."""

    def __init__(self, database: Database, run: Run) -> None:
        """Take a run where it stands."""
        self._database = database
        self.run = run
        self._seen = _Seen()

    async def count(
        self, *, found: int = 0, failed: int = 0, denied: int = 0, repaired: int = 0, drift: int = 0
    ) -> None:
        """Count what was just looked at. What is repaired is not found so again, and is recorded at once; the rest with `reach`."""
        self._seen = _Seen(self._seen.found + found, self._seen.failed + failed, self._seen.denied + denied)
        if repaired or drift:
            await self._save(self.run.plus(repaired=repaired, drift=drift))

    async def reach(self, *, position: str | None = None, done_until: int | None = None) -> None:
        """Record that nothing that was counted so far is looked at again by this run, and from where it goes on."""
        seen, self._seen = self._seen, _Seen()
        run = self.run.plus(found=seen.found, failed=seen.failed, denied=seen.denied)
        position = run.position if position is None else position
        await self._save(replace(run, position=position, done_until=done_until or run.done_until))

    async def end(self, state: RunState) -> None:
        """Record how it ended."""
        await self._save(replace(self.run, state=state))

    async def _save(self, run: Run) -> None:
        self.run = run  # first: who is stopped while this is saved saves it again
        await self._database.run(lambda connection: reconcile_runs.save(connection, run))


@dataclass(frozen=True)
class _Seen:
    """What was looked at since the last place that is recorded, and is looked at again from there."""

    found: int = 0
    failed: int = 0
    denied: int = 0


async def recorded(
    database: Database, run: Run, step: Callable[[Walk], Awaitable[None]], progress: Progress | None = None
) -> Run:
    """Take steps until the run has come to its end, telling each; give the report.

    A run that is cancelled is recorded as stopped, one that is broken off, by whatever it is, as failed, and one in which anything failed is not
    recorded as complete.

    Raises:
        StripeCallError: Stripe does not answer.
        BillingError: the database does not.
    """
    tell = progress or _silent
    walk = Walk(database, run)
    try:
        await walk.reach()  # that it is under way again, before anybody else takes it up
        tell(walk.run)
        while walk.run.done_until < walk.run.until:
            await step(walk)
            tell(walk.run)
    except asyncio.CancelledError:
        # Best effort: a database that is away must not keep a program from ending, and a run that says "running" is gone on
        # with all the same.
        with suppress(BillingError, TimeoutError):
            await asyncio.shield(asyncio.wait_for(walk.end(RunState.STOPPED), STOP_LIMIT_S))
        raise
    except Exception as error:
        log.warning("reconcile_failed", run_id=run.run_id, scope=run.scope, error=named(error))
        await walk.end(RunState.FAILED)
        raise
    await walk.end(RunState.FAILED if walk.run.failed else RunState.COMPLETE)
    run = walk.run
    counts = {"found": run.found, "repaired": run.repaired, "failed": run.failed, "drift": run.drift}
    log.info("reconciled", scope=run.scope, denied=run.denied, **counts)
    return run


def _silent(_run: Run) -> None:
    return None
