"""A run of the reconciliation: step after step, each recorded when it is done, and how it ended said truly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from billing_service.domain.errors import BillingError
from billing_service.logs import named
from billing_service.storage import reconcile_runs
from billing_service.storage.database import Database
from billing_service.storage.reconcile_runs import Run, RunState

STOP_LIMIT_S = 0.8  # for recording that a run was stopped: less than the stop of a program waits for its tasks

Progress = Callable[[Run], None]

log = structlog.get_logger(__name__)


async def recorded(
    database: Database, run: Run, step: Callable[[Run], Awaitable[Run]], progress: Progress | None = None
) -> Run:
    """Take steps until the run has come to its end, recording each; give the report.

    A run that is cancelled is recorded as stopped, one that is broken off, by whatever it is, as failed, and one in which anything failed is not
    recorded as complete.

    Raises:
        StripeCallError: Stripe does not answer.
        BillingError: the database does not.
    """
    tell = progress or _silent

    async def save(run: Run) -> None:
        await database.run(lambda connection: reconcile_runs.save(connection, run))

    try:
        tell(run)
        while run.done_until < run.until:
            run = await step(run)
            await save(run)
            tell(run)
    except asyncio.CancelledError:
        # Best effort: a database that is away must not keep a program from ending, and a run that says "running" is gone on
        # with all the same.
        with suppress(BillingError, TimeoutError):
            await asyncio.shield(asyncio.wait_for(save(replace(run, state=RunState.STOPPED)), STOP_LIMIT_S))
        raise
    except Exception as error:
        log.warning("reconcile_failed", run_id=run.run_id, scope=run.scope, error=named(error))
        await save(replace(run, state=RunState.FAILED))
        raise
    run = replace(run, state=RunState.FAILED if run.failed else RunState.COMPLETE)
    await save(run)
    counts = {"found": run.found, "repaired": run.repaired, "failed": run.failed, "drift": run.drift}
    log.info("reconciled", scope=run.scope, denied=run.denied, **counts)
    return run


def _silent(_run: Run) -> None:
    return None
