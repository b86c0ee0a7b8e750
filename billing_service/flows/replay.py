"""Takes quarantined events in again after their cause was mended, through the same path as webhooks.

An event leaves the quarantine only after it was recorded; what fails again stays, with its new reason. So it can be broken
off and begun again at any time. What was discarded is passed over, but where its own key is named.

A process tries all of them when it starts: its release may understand what the one before did not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from billing_service.domain.errors import BillingError
from billing_service.domain.observation import HANDLED_TYPES, THIN_PREFIX
from billing_service.flows.event_bodies import parse
from billing_service.flows.fulfill import Outcome
from billing_service.flows.reconcile import FulfillBatch
from billing_service.logs import named
from billing_service.storage import quarantine
from billing_service.storage.database import Database
from billing_service.storage.quarantine import Reason
from billing_service.storage.unwritable import UnwritableError

MOST = 64  # events in one go, so that live webhooks do not queue behind them
USED_TYPES = frozenset({*HANDLED_TYPES, *(f"{THIN_PREFIX}{one}" for one in HANDLED_TYPES)})
PAUSE_S = 10.0  # before the next try where the database is away
UNTRIED_FOR = timedelta(minutes=10)  # at a start: so that many processes that start together try each event once

log = structlog.get_logger(__name__)


@dataclass
class Replayed:
    """What became of the events that were replayed."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many were replayed."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """How many stay in quarantine."""
        return self.outcomes[Outcome.QUARANTINED]


Progress = Callable[[Replayed], None]


class Replay:
    """Empties the quarantine, or a part of it."""

    def __init__(self, database: Database, fulfill: FulfillBatch) -> None:
        """`fulfill` is the one writer of the process."""
        self._database = database
        self._fulfill = fulfill

    async def run(self) -> None:
        """Take in what an earlier release could not, once, at the start: what it ignored, and what is in quarantine. Then wait for ever."""
        while not await self._at_start():  # noqa: ASYNC110 - nothing tells us that the database is back
            await asyncio.sleep(PAUSE_S)
        await asyncio.Event().wait()

    async def _at_start(self) -> bool:
        try:
            ignored = await self.ignored()
            others = await self._batches(frozenset(Reason) - {Reason.IGNORED}, None, None, UNTRIED_FOR)
        except (BillingError, UnwritableError) as error:
            log.warning("replay_interrupted", error=named(error))
            return False
        for replayed, line in ((ignored, "ignored_events_replayed"), (others, "quarantined_events_replayed")):
            if replayed.count:
                log.info(line, count=replayed.count, failed=replayed.failed)
        return True

    async def event(self, event_key: str) -> Replayed:
        """Replay one event, also a discarded one; nothing where it is not in quarantine. Raises as `reasons` does."""
        return await self._batches(frozenset(Reason), event_key, None)

    async def reasons(self, reasons: Collection[Reason], progress: Progress | None = None) -> Replayed:
        """Replay every event that is in quarantine for one of these reasons, but those that were discarded.

        Raises:
            BillingError: the database is away or too much is waiting; what was not replayed is still in quarantine.
        """
        return await self._batches(reasons, None, progress)

    async def ignored(self, progress: Progress | None = None) -> Replayed:
        """Replay the events that were recorded without effect and whose type is used now. Raises as `reasons` does.

        They go through the quarantine, so that none is lost on the way.
        """
        while await self._database.run(lambda c: quarantine.take_ignored(c, USED_TYPES, MOST)):
            pass
        return await self.reasons([Reason.IGNORED], progress)

    async def page(
        self, reasons: Collection[Reason], key: str | None, after: str, most: int
    ) -> tuple[Replayed, str | None]:
        """Replay the next events after a key, `most` at most (of one alone where `key` is given); give the last key tried.

        None in its place where there are no more. Raises as `reasons` does.
        """
        replayed, moved = Replayed(), set[str]()
        while replayed.count < most:
            batch = await self._next(reasons, key, after, min(MOST, most - replayed.count))
            if not batch:
                return replayed, None
            await self._try(batch, moved, replayed)
            after = max(batch)
        return replayed, after if await self._next(reasons, key, after, 1) else None

    async def _batches(
        self,
        reasons: Collection[Reason],
        key: str | None,
        progress: Progress | None,
        untried_for: timedelta | None = None,
    ) -> Replayed:
        replayed, after = Replayed(), ""
        moved: set[str] = set()  # those that were here by another key than this release keeps them by
        while batch := await self._next(reasons, key, after, MOST, untried_for):
            await self._try(batch, moved, replayed)
            after = max(batch)
            if progress is not None:
                progress(replayed)
        return replayed

    async def _try(self, batch: Mapping[str, bytes], moved: set[str], replayed: Replayed) -> None:
        """Take events in again; let those go that were recorded, or are kept by another key now (`moved` has it then)."""
        tried = {event_key: body for event_key, body in batch.items() if event_key not in moved}
        results = await self._fulfill(list(tried.values())) if tried else ()
        replayed.outcomes.update(result.outcome for result in results)
        done: dict[str, str | None] = {}
        for (event_key, body), result in zip(tried.items(), results, strict=True):
            kept_as = parse(body).key if result.outcome is Outcome.QUARANTINED else None
            if kept_as != event_key:
                done[event_key] = kept_as
            if kept_as is not None:
                moved.add(kept_as)
        await self._database.run(lambda c: quarantine.release(c, done))

    async def _next(
        self, reasons: Collection[Reason], key: str | None, after: str, most: int, untried_for: timedelta | None = None
    ) -> Mapping[str, bytes]:
        return await self._database.run(
            lambda c: quarantine.payloads(c, reasons, key=key, after=after, most=most, untried_for=untried_for)
        )
