"""Walks Stripe's events by the time at which they were made, and feeds what is missing through the same path as webhooks.

The window is cut into slices, the oldest first; each is finished, and recorded as finished, before the next begins. So a
run can be stopped anywhere and resumed, and one that failed anywhere is never recorded as complete. It overlaps the last
one by some minutes, because events become visible in Stripe's list out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec
import structlog

from billing_service.domain.errors import BillingError
from billing_service.domain.views import ObjectKind
from billing_service.flows.fulfill import EventResult, Outcome
from billing_service.flows.reads import Reads
from billing_service.storage import customers, history, reconcile_runs, stripe_customers
from billing_service.storage.database import Database
from billing_service.storage.reconcile_runs import Run, RunState
from billing_service.stripe_api.errors import StripeCallError
from billing_service.stripe_api.listing import StripeListing

SLICE_S = 3_600
OVERLAP_S = 600
KEPT_S = 30 * 86_400  # Stripe's list of events goes back this far
FIRST_WINDOW_S = 4 * 86_400  # for a database that was never reconciled: Stripe's own retries end after three days
FULFILL_MOST = 64  # events in one go, so that live webhooks do not queue behind a backlog
INTERVAL_S = 300.0

FulfillBatch = Callable[[Sequence[bytes]], Awaitable[Sequence[EventResult]]]
Progress = Callable[[Run], None]

log = structlog.get_logger(__name__)


class Reconcile:
    """Brings what was missed back in."""

    def __init__(
        self,
        database: Database,
        listing: StripeListing,
        reads: Reads,
        fulfill: FulfillBatch,
        now: Callable[[], datetime],
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._listing = listing
        self._reads = reads
        self._fulfill = fulfill
        self._now = now

    async def run(self) -> None:
        """Reconcile again and again, each time from where the last complete run ended."""
        while True:
            try:
                await self.events()
            except (BillingError, StripeCallError) as error:
                log.warning("reconcile_interrupted", error=str(error))
            await asyncio.sleep(INTERVAL_S)

    async def events(self, since: int | None = None, progress: Progress | None = None) -> Run:
        """Walk the events since a time (default: the last complete run, with an overlap) until now; give the report.

        A run that an earlier process left unfinished is resumed first where it covers the same time.

        Raises:
            StripeCallError: Stripe does not answer; the run is recorded as failed, and can be resumed.
            BillingError: the database does not.
        """
        run = await self._begun(since)
        tell = progress or _silent
        try:
            while run.done_until < run.until:
                run = await self._slice(run)
                await self._save(run)
                tell(run)
        except asyncio.CancelledError:
            await asyncio.shield(self._save(replace(run, state=RunState.STOPPED)))
            raise
        except (StripeCallError, BillingError) as error:
            log.warning("reconcile_failed", run_id=run.run_id, error=str(error))
            await self._save(replace(run, state=RunState.FAILED))
            raise
        run = replace(run, state=RunState.FAILED if run.failed else RunState.COMPLETE)
        await self._save(run)
        log.info("reconciled", found=run.found, repaired=run.repaired, failed=run.failed, drift=run.drift)
        return run

    async def customer(self, customer_id: str) -> int:
        """Read everything of one customer from Stripe: what Stripe lists, and what we hold (a deletion that we missed is in
        no list). Gives how many objects were read.

        Raises:
            StripeCallError: Stripe does not answer.
            BillingError: the database does not.
        """
        stripe_ids = await self._database.run(lambda c: stripe_customers.of_customers(c, [customer_id]))
        held = await self._database.run(lambda c: customers.load(c, [customer_id]))
        row = held.get(customer_id)
        wanted = {(ObjectKind.SUBSCRIPTION, s.subscription_id) for s in row.facts.subscriptions} if row else set()
        wanted |= {(ObjectKind.CHECKOUT_SESSION, p.checkout_session_id) for p in row.facts.purchases} if row else set()
        for stripe_id in stripe_ids:
            async for page in self._listing.subscriptions(stripe_id):
                wanted |= {(ObjectKind.SUBSCRIPTION, found["id"]) for found in page.data}
        for kind, object_id in sorted(wanted):
            await self._reads.object(kind, object_id)
        return len(wanted)

    async def _begun(self, since: int | None) -> Run:
        until = int(self._now().timestamp())
        left = await self._database.run(reconcile_runs.last_unfinished)
        begin = since
        if begin is None:
            last = await self._database.run(reconcile_runs.last_complete_until)
            begin = until - FIRST_WINDOW_S if last is None else last - OVERLAP_S
        begin = max(begin, until - KEPT_S, 0)
        if left is not None and left.failed == 0 and left.since <= begin <= left.done_until:
            begin = max(left.since, left.done_until - OVERLAP_S)
        return await self._database.run(lambda c: reconcile_runs.begin(c, begin, until))

    async def _slice(self, run: Run) -> Run:
        """Take in one slice's missing events, the oldest first."""
        until = min(run.done_until + SLICE_S, run.until)
        found: dict[str, bytes] = {}
        async for page in self._listing.events(run.done_until, until):
            found |= {event["id"]: msgspec.json.encode(event) for event in page.data}
        missing = await self._database.run(lambda c: reconcile_runs.unknown_events(c, found))
        bodies = [body for event_id, body in reversed(found.items()) if event_id in missing]
        results: list[EventResult] = []
        for start in range(0, len(bodies), FULFILL_MOST):
            results += await self._fulfill(bodies[start : start + FULFILL_MOST])
        drift = await self._database.run(lambda c: history.changed_by(c, missing)) if missing else 0
        failed = sum(result.outcome is Outcome.QUARANTINED for result in results)
        counted = run.plus(found=len(found), repaired=len(results) - failed, failed=failed, drift=drift)
        return replace(counted, done_until=until)

    async def _save(self, run: Run) -> None:
        await self._database.run(lambda connection: reconcile_runs.save(connection, run))


def _silent(_run: Run) -> None:
    return None
