"""What operators list and look at: a page at a time, each from the place where the one before ended. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from billing_service.domain.errors import EventNotFoundError, ReconcileRunNotFoundError
from billing_service.domain.operator import StandingGrant
from billing_service.flows.prices import Prices
from billing_service.storage import events, findings, grants, history, operator_requests, quarantine, reconcile_runs
from billing_service.storage.database import Connection, Database
from billing_service.storage.events import Filter, Place, RecordedEvent
from billing_service.storage.findings import Finding, FindingKind
from billing_service.storage.history import RecordedChange
from billing_service.storage.operator_requests import RecordedRequest
from billing_service.storage.quarantine import QuarantinedEvent, Reason
from billing_service.storage.reconcile_runs import RecordedRun, Scope

_Row = TypeVar("_Row")
_Place = TypeVar("_Place")
Page = tuple[Sequence[_Row], _Place | None]  # the rows, and the place to go on from; None: these were the last

MOST_OBJECTS = 1_000  # of a customer, whose events are listed
END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)


class LookUp:
    """Reads for operators."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now

    async def changes(self, customer_id: str, before: int | None, most: int) -> Page[RecordedChange, int]:
        """Give the changes of a customer before a revision, the newest first."""
        found = await self._database.run(lambda c: history.of_customer(c, customer_id, before, most + 1))
        return _page(found, most, lambda one: one.after.revision)

    async def events(
        self, chosen: Filter, customer_id: str | None, before: Place | None, most: int
    ) -> Page[RecordedEvent, Place]:
        """Give recorded events before a place, the last received first; of one customer where one is named."""
        start = before or (chosen.end or END_OF_TIME, "")

        async def load(connection: Connection) -> Page[RecordedEvent, Place]:
            wanted = chosen
            if customer_id is not None:
                theirs = await events.objects_of(connection, customer_id, MOST_OBJECTS)
                wanted = replace(chosen, object_ids=theirs if chosen.object_ids is None else theirs & chosen.object_ids)
            return await events.page(connection, wanted, start, most)

        return await self._database.run(load)

    async def event(self, event_id: str) -> tuple[RecordedEvent | QuarantinedEvent, bytes]:
        """Give one event with its body, recorded or in quarantine.

        Raises:
            EventNotFoundError: it is neither.
        """
        found = await self._database.run(lambda c: events.find(c, event_id))
        if found is not None:
            return found
        kept = await self._database.run(lambda c: quarantine.find(c, event_id))
        if kept is None:
            raise EventNotFoundError(event_id)
        return kept

    async def quarantined(
        self, reasons: Collection[Reason], before: tuple[datetime, str] | None, most: int, *, discarded: bool
    ) -> tuple[Page[QuarantinedEvent, tuple[datetime, str]], Mapping[Reason, int]]:
        """Give the events in quarantine before a place, the last to come first, and how many of each reason are not discarded."""
        found = await self._database.run(lambda c: quarantine.page(c, reasons, before, most + 1, discarded=discarded))
        counts = await self._database.run(quarantine.counts)
        return _page(found, most, lambda one: (one.create_time, one.event_key)), counts

    async def grants(
        self, customer_id: str | None, before: tuple[datetime, str] | None, most: int, *, ended: bool
    ) -> Page[StandingGrant, tuple[datetime, str]]:
        """Give grants before a place, the newest first."""
        now = self._now()
        found = await self._database.run(lambda c: grants.page(c, customer_id, now, before, most + 1, ended=ended))
        plans = await self._prices.plans()
        rows, place = _page(found, most, lambda one: (one.create_time, one.facts.grant_id))
        return [StandingGrant(grant, grant.state(plans, now)) for grant in rows], place

    async def findings(
        self,
        kind: FindingKind | None,
        customer_id: str | None,
        before: findings.Place | None,
        most: int,
        *,
        closed: bool,
    ) -> Page[Finding, findings.Place]:
        """Give findings before a place, the last found first."""
        found = await self._database.run(lambda c: findings.page(c, kind, customer_id, before, most + 1, closed=closed))
        return _page(found, most, lambda one: findings.Place(one.update_time, one.kind, one.subject))

    async def operators_record(
        self, chosen: operator_requests.Filter, before: operator_requests.Place | None, most: int
    ) -> Page[RecordedRequest, operator_requests.Place]:
        """Give what operators did before a place, the last first."""
        found = await self._database.run(lambda c: operator_requests.page(c, chosen, before, most + 1))
        return _page(found, most, lambda one: (one.create_time, one.order.request_id))

    async def runs(self, scope: Scope | None, before: int | None, most: int) -> Page[RecordedRun, int]:
        """Give runs of the reconciliation before a number, the newest first."""
        found = await self._database.run(lambda c: reconcile_runs.page(c, scope, before, most + 1))
        return _page(found, most, lambda one: one.run.run_id)

    async def run(self, run_id: int) -> RecordedRun:
        """Give one run.

        Raises:
            ReconcileRunNotFoundError: there is none of this number.
        """
        found = await self._database.run(lambda c: reconcile_runs.find(c, run_id))
        if found is None:
            raise ReconcileRunNotFoundError(str(run_id))
        return found


def _page(found: Sequence[_Row], most: int, place: Callable[[_Row], _Place]) -> Page[_Row, _Place]:
    return found[:most], place(found[most - 1]) if len(found) > most else None
