"""Walks Stripe's events by the time at which they were made, and feeds what is missing through the same path as webhooks.

The window is cut into slices, the oldest first; each is finished, and recorded as finished, before the next begins. So a
run can be stopped anywhere and resumed, and one that failed anywhere is never recorded as complete. It begins where those before
cover everything without a gap, less some minutes, because events become visible in Stripe's list out of order. What failed is in
quarantine, and so is covered too: walked again until somebody acts, it would make each walk longer than the one before.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import structlog

from billing_service.domain.errors import BillingError
from billing_service.domain.observation import HANDLED_TYPES
from billing_service.flows.event_bodies import hash_key
from billing_service.flows.fulfill import EventResult, Outcome
from billing_service.flows.patience import Patience
from billing_service.flows.reconcile_run import Progress, Walk, recorded
from billing_service.flows.request_budget import RequestBudget
from billing_service.logs import named
from billing_service.storage import history, quarantine, reconcile_runs
from billing_service.storage.database import Connection, Database
from billing_service.storage.reconcile_runs import Cover, Run, Scope
from billing_service.stripe_api.errors import StripeCallError
from billing_service.stripe_api.listing import StripeListing

SLICE_S = 3_600  # of the first; where little happened they grow, so that a quiet month is not a thousand requests
SLICE_MOST_S, SLICE_LEAST_S = 86_400, 600
SLICE_EVENTS = 500  # a slice with more is followed by a shorter one: it is what a crash makes a run look at again
OVERLAP_S = 600
KEPT_S = 30 * 86_400  # Stripe's list of events goes back this far
FIRST_WINDOW_S = 4 * 86_400  # for a database that was never reconciled: Stripe's own retries end after three days
FULFILL_MOST = 64  # events in one go, so that live webhooks do not queue behind a backlog
INTERVAL_S = 300.0
REPAIRED = frozenset({Outcome.APPLIED, Outcome.PARKED})

FulfillBatch = Callable[[Sequence[bytes]], Awaitable[Sequence[EventResult]]]

log = structlog.get_logger(__name__)


def walked_until(cover: Cover | None) -> int:
    """Say up to when events were compared with ours, in unix seconds, with the last minutes of the walk; 0 where none were."""
    return 0 if cover is None or cover.until == cover.first else cover.until + OVERLAP_S


async def covered(connection: Connection, now_s: int) -> Cover | None:
    """Say up to when the events were walked without a gap, of those that Stripe still lists; None where no walk ever began."""
    return await reconcile_runs.cover(connection, _oldest(now_s), lead_s=FIRST_WINDOW_S, overlap_s=OVERLAP_S)


def _oldest(now_s: int) -> int:
    return max(now_s - KEPT_S, 0)


class Reconcile:
    """Brings the events back in that were missed."""

    def __init__(
        self,
        database: Database,
        listing: StripeListing,
        fulfill: FulfillBatch,
        budget: RequestBudget,
        now: Callable[[], datetime],
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`now` is the one clock of the process; `interval_s` lies between the runs of `run`."""
        self._database = database
        self._listing = listing.through(Patience(budget))
        self._fulfill = fulfill
        self._now = now
        self._interval_s = interval_s

    async def run(self) -> None:
        """Reconcile again and again, each time from where nothing was left out."""
        while True:
            try:
                await self.events()
            except (BillingError, StripeCallError) as error:
                log.warning("reconcile_interrupted", error=named(error))
            await asyncio.sleep(self._interval_s)

    async def events(self, since: int | None = None, progress: Progress | None = None) -> Run:
        """Walk the events since a time (default: where those before were walked without a gap, less an overlap) until now.

        A run that was left unfinished, by this or another process, is gone on with where it covers the same time.

        Raises:
            StripeCallError: Stripe does not answer; the run is recorded as failed, and can be resumed.
            BillingError: the database does not.
        """
        length_s = SLICE_S

        async def step(walk: Walk) -> None:
            nonlocal length_s
            before = walk.run.found
            await self._slice(walk, length_s)
            few = walk.run.found - before < SLICE_EVENTS
            length_s = min(length_s * 2, SLICE_MOST_S) if few else max(length_s // 2, SLICE_LEAST_S)

        return await recorded(self._database, await self._begun(since), step, progress)

    async def _begun(self, since: int | None) -> Run:
        until = int(self._now().timestamp())
        begin = await (self._uncovered(until) if since is None else self._unfinished(max(since, _oldest(until))))
        return await self._database.run(lambda c: reconcile_runs.begin(c, Scope.EVENTS, begin, until))

    async def _uncovered(self, until: int) -> int:
        """Say where the cover ends: a run over a later time, asked for by somebody, does not move that."""
        cover = await self._database.run(lambda c: covered(c, until))
        return max(until - FIRST_WINDOW_S if cover is None else cover.until, _oldest(until))

    async def _unfinished(self, since: int) -> int:
        """Say where to begin a run since a time: where one that was left unfinished came to, if it covers that time."""
        left = await self._database.run(lambda c: reconcile_runs.last_unfinished(c, Scope.EVENTS))
        if left is not None and left.failed == 0 and left.since <= since <= left.done_until:
            return max(left.since, left.done_until - OVERLAP_S)
        return since

    async def _slice(self, walk: Walk, length_s: int) -> None:
        """Take in one slice's missing events, page by page: the merge does not mind the order."""
        since, until = walk.run.done_until, min(walk.run.done_until + length_s, walk.run.until)
        types = sorted(HANDLED_TYPES)
        async for page in self._listing.events(since, until, types):
            await self._page(walk, {event["id"]: _body(event) for event in page.data[::-1]})
        await walk.reach(done_until=until)

    async def _page(self, walk: Walk, found: Mapping[str, bytes]) -> None:
        missing = await self._database.run(lambda c: reconcile_runs.unknown_events(c, found))
        bodies = await self._undecided({event_id: found[event_id] for event_id in found if event_id in missing})
        await walk.count(found=len(found) - len(bodies))
        for start in range(0, len(bodies), FULFILL_MOST):
            results = await self._fulfill(bodies[start : start + FULFILL_MOST])
            repaired = {result.event_id for result in results if result.outcome in REPAIRED and result.event_id}
            failed = sum(result.outcome is Outcome.QUARANTINED for result in results)
            await walk.count(found=len(results), failed=failed, repaired=len(repaired))
            if repaired:
                drift = await self._database.run(lambda c, by=repaired: history.changed_by(c, by))  # type: ignore[misc] # a default binds it now
                await walk.count(drift=len(drift))
        await walk.reach()

    async def _undecided(self, missing: Mapping[str, bytes]) -> list[bytes]:
        """Leave out what an operator discarded, or each walk would fail of it: by its id, or by its bytes as a release before kept it."""
        keys = {event_id: {event_id, hash_key(body)} for event_id, body in missing.items()}
        asked = frozenset().union(*keys.values())
        discarded = await self._database.run(lambda c: quarantine.discarded(c, asked)) if asked else frozenset()
        return [body for event_id, body in missing.items() if discarded.isdisjoint(keys[event_id])]


def _body(event: Mapping[str, Any]) -> bytes:
    """Give an event's bytes. Text that is not Unicode, which Stripe passes on from whoever wrote it, goes escaped as it came."""
    try:
        return msgspec.json.encode(event)
    except UnicodeEncodeError:
        return json.dumps(event).encode()
