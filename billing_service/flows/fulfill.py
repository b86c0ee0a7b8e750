"""Applies verified events: recorded and merged in one transaction, answered after its commit.

What arrives while the writers are busy is gathered and makes the next transaction; nothing ever waits for company. The
writers are tasks of their own, so one caller's cancellation never cancels its neighbours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import structlog

from billing_service import tracing
from billing_service.deadline import deadline_after, remaining_s
from billing_service.domain.errors import BillingError, DatabaseUnavailableError, OverloadedError
from billing_service.domain.frozen import frozen
from billing_service.domain.merge import of_event, of_notice
from billing_service.domain.observation import PRICE_TYPES, THIN_PREFIX, Event, Observation
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows import event_spans
from billing_service.flows.apply import Context, apply
from billing_service.flows.arrival import Arrival
from billing_service.flows.event_bodies import ParsedEvent, parse
from billing_service.flows.lanes import BACKLOG, LIVE, Lane, LaneQueue, lane_of
from billing_service.flows.prices import Prices
from billing_service.flows.reach import reach
from billing_service.logs import named
from billing_service.storage import events, quarantine, rereads
from billing_service.storage.database import Connection, Database
from billing_service.storage.events import EventRow, RecordedOutcome
from billing_service.storage.rereads import Ask
from billing_service.storage.unwritable import UnwritableError

BATCH_LIMIT_S = 8.0  # for one transaction, retries included
CALL_LIMIT_S = 15.0  # for one call that came without a deadline

log = structlog.get_logger(__name__)


# An event's type (None: not readable), what became of it, and for a new one the seconds since Stripe made it.
Told = Callable[[str | None, str, float | None], None]


class Outcome(StrEnum):
    """What became of an event; the contract's FulfillResult.Outcome."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    NOT_OURS = "not_ours"
    QUARANTINED = "quarantined"
    PARKED = "parked"


@frozen
class EventResult:
    """What became of one event; `event_id` is None where it could not be read."""

    event_id: str | None
    outcome: Outcome


class _Call:
    """What one caller brought: a result for each event, and when all are there."""

    def __init__(self, count: int) -> None:
        self.results: list[EventResult | Exception | None] = [None] * count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = count

    def settle(self, position: int, result: EventResult | Exception) -> bool:
        """Note what became of an event, and say whether it was not noted yet: the first stands. The caller may have gone."""
        if self.results[position] is not None:
            return False
        self.results[position] = result
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)
        return True


@frozen
class _Waiting:
    """One event in a queue, and where its result goes."""

    parsed: ParsedEvent
    call: _Call
    position: int  # in its call
    span: tracing.Span | None = None

    @property
    def size(self) -> int:
        """The bytes of its body."""
        return len(self.parsed.payload)

    def settle(self, result: EventResult | Exception) -> None:
        """Say what became of it."""
        if self.call.settle(self.position, result) and self.span is not None:
            event_spans.end(self.span, result)


class Fulfill:
    """The writers in front of Postgres. `run` must be under way for calls to be answered."""

    def __init__(
        self,
        database: Database,
        prices: Prices,
        deployment: str,
        now: Callable[[], datetime],
        told: Told | None = None,
    ) -> None:
        """Takes nothing before `run`. `now` is the one clock of the process; `told` hears of each event after its commit."""
        self._told = told
        self._now = now
        self._database = database
        self._prices = prices
        self._deployment = deployment
        self._queues: Mapping[Lane, LaneQueue[_Waiting]] = {
            Lane.LIVE: LaneQueue(LIVE),
            Lane.BACKLOG: LaneQueue(BACKLOG),
        }
        self._closing = False

    async def __call__(self, payloads: Sequence[bytes], traceparents: Sequence[str] = ()) -> Sequence[EventResult]:
        """Apply events, byte for byte as Stripe sent them, and give one result each, in order, after the commit.

        `traceparents`, where there are any, has one for each event: in which trace it is.

        Raises:
            OverloadedError: too many are waiting.
            DatabaseUnavailableError: they could not be written in time; nothing was lost, send them again.
        """
        now = self._now().timestamp()
        call = _Call(len(payloads))
        lanes: dict[Lane, list[_Waiting]] = {}
        for one in _waiting(call, payloads, traceparents):
            created = one.parsed.event.created if one.parsed.event else None
            lanes.setdefault(lane_of(created, now), []).append(one)
        await self._answered(call, lanes)
        return [_given(result) for result in call.results]

    async def backlog(self, payloads: Sequence[bytes]) -> Sequence[EventResult]:
        """Apply events that nobody waits for, whatever their age, and that nobody sends again: what fails alone is put aside, whatever it is.

        Raises as a call does where that is no fault of any event.
        """
        call = _Call(len(payloads))
        waiting = _waiting(call, payloads)
        await self._answered(call, {Lane.BACKLOG: waiting})
        return [await self._kept(one.parsed, result) for one, result in zip(waiting, call.results, strict=True)]

    async def run(self) -> None:
        """Write batch after batch, until `close` was called and the queues are empty."""
        async with asyncio.TaskGroup() as writers:
            for queue in self._queues.values():
                for _ in range(queue.limits.writers):
                    writers.create_task(self._serve(queue))

    async def close(self) -> None:
        """Take nothing more; `run` returns once everything that waits is written."""
        self._closing = True
        for queue in self._queues.values():
            queue.close()

    async def _answered(self, call: _Call, lanes: Mapping[Lane, Sequence[_Waiting]]) -> None:
        """Have events written, and wait until there is a result for each."""
        for lane, those in lanes.items():
            if self._closing or not self._queues[lane].has_room(len(those), sum(one.size for one in those)):
                raise OverloadedError
        for lane, those in lanes.items():
            self._queues[lane].put(those)
        if call.results:
            try:
                # Whoever goes away leaves the events on their way.
                await asyncio.wait_for(call.done, remaining_s(CALL_LIMIT_S))
            except TimeoutError:
                raise DatabaseUnavailableError from None

    async def _kept(self, one: ParsedEvent, result: EventResult | Exception | None) -> EventResult:
        """Give a result; of what failed alone, and for no reason that passes, after it was put aside."""
        if not isinstance(result, Exception) or isinstance(result, BillingError):
            return _given(result)
        with deadline_after(BATCH_LIMIT_S):
            return await self._quarantine(one, quarantine.Reason.UNWRITABLE, f"cannot be taken in: {named(result)}")

    async def _serve(self, queue: LaneQueue[_Waiting]) -> None:
        while batch := await queue.take():
            try:
                with event_spans.batch([one.span for one in batch]):
                    await self._write(batch)
            except Exception as error:  # noqa: BLE001 - the writer outlives whatever one batch does; callers hear of it
                self._fail(batch, error)
            if any(
                one.parsed.event and one.parsed.event.type.removeprefix(THIN_PREFIX) in PRICE_TYPES for one in batch
            ):
                self._prices.hint()

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for one in batch:
            one.settle(error)
        if not isinstance(error, BillingError):
            log.error("fulfill_failed", events=len(batch), exc_info=error)

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch and settle it; where it fails for a reason of its own, one at a time.

        What the database refuses alone is quarantined. What fails alone for any other reason (a defect, or a row that a
        newer release wrote) is answered with that error and keeps coming back: quarantine would end it with a 200.

        Raises:
            BillingError: the database is away; that is no fault of any event, and what is not settled yet was not written.
        """
        parsed = [one.parsed for one in batch]
        try:
            with deadline_after(BATCH_LIMIT_S):
                plans = await self._prices.plans()
                results = await self._database.run(lambda connection: self._transact(connection, parsed, plans))
        except BillingError:
            raise
        except UnwritableError as error:
            if len(batch) > 1:
                return await self._write_one_by_one(batch)
            with deadline_after(BATCH_LIMIT_S):
                results = [await self._quarantine(parsed[0], quarantine.Reason.UNWRITABLE, error.rule)]
        except Exception as error:  # noqa: BLE001 - see above: whose fault it is shows when each runs alone
            if len(batch) > 1:
                return await self._write_one_by_one(batch)
            return self._fail(batch, error)
        for one, result in zip(batch, results, strict=True):
            one.settle(result)
        self._tell(parsed, results)
        return None

    def waiting(self, lane: Lane) -> int:
        """How many events wait in a lane."""
        return len(self._queues[lane])

    def _tell(self, parsed: Sequence[ParsedEvent], results: Sequence[EventResult]) -> None:
        if self._told is None:
            return
        now = self._now().timestamp()
        for one, result in zip(parsed, results, strict=True):
            is_new = one.event is not None and result.outcome is not Outcome.DUPLICATE
            latency_s = now - one.event.created if one.event is not None and is_new else None
            self._told(one.event.type if one.event else None, result.outcome.value, latency_s)

    async def _write_one_by_one(self, batch: Sequence[_Waiting]) -> None:
        for one in batch:
            await self._write([one])

    async def _transact(
        self, connection: Connection, batch: Sequence[ParsedEvent], plans: PlanIndex
    ) -> list[EventResult]:
        for one in sorted(batch, key=lambda one: one.key):
            if one.event is None:
                await quarantine.keep(connection, one.key, one.payload, quarantine.Reason.MALFORMED, one.problem)
        distinct: dict[str, tuple[Event, bytes]] = {}
        for one in batch:  # two copies in one batch are one event and its duplicate
            if one.event is not None:
                distinct.setdefault(one.event.event_id, (one.event, one.payload))
        outcomes = await self._record(connection, distinct, plans) if distinct else {}
        return _results(batch, outcomes)

    async def _record(
        self, connection: Connection, distinct: Mapping[str, tuple[Event, bytes]], plans: PlanIndex
    ) -> dict[str, Outcome]:
        """Record events by id and merge those that are new; give the outcome of each of these."""
        rows = [self._row(event, payload) for event, payload in distinct.values()]
        recorded = events.record(connection, rows)
        connection.push()
        applied = {row.event_id for row in rows if row.outcome is RecordedOutcome.APPLIED}
        seen = [event.observation for event, _ in distinct.values() if event.observation and event.event_id in applied]
        told = {
            event_id: of_notice(event, event.notice)
            for event_id, (event, _) in distinct.items()
            if event.notice is not None and event.facts
        }
        reached = reach(connection, seen, plans, told.values())
        receipts = await recorded
        outcomes = {row.event_id: Outcome(row.outcome.value) for row in rows if row.event_id in receipts}
        used = [
            (event, event.observation)
            for event_id, (event, _) in distinct.items()
            if outcomes.get(event_id) is Outcome.APPLIED and event.observation is not None
        ]
        asks = [
            Ask(event.notice.object_id, event.notice.kind, delay_s=0)
            for event_id, (event, _) in distinct.items()
            if outcomes.get(event_id) is Outcome.APPLIED and event.notice is not None
        ]
        told = {event_id: state for event_id, state in told.items() if outcomes.get(event_id) is Outcome.APPLIED}
        if used or told:
            arrivals = [_arrival(event, seen, receipts[event.event_id]) for event, seen in used]
            context = Context(plans, self._now())
            parked = await apply(connection, arrivals, context, self._deployment, asks, reached, told)
            outcomes |= {event.event_id: Outcome.PARKED for event, seen in used if seen.object_id in parked}
        elif asks:
            rereads.ask(connection, asks)
        return outcomes

    def _row(self, event: Event, payload: bytes) -> EventRow:
        outcome = RecordedOutcome.APPLIED if event.is_used else RecordedOutcome.IGNORED
        theirs = event.observation is not None and event.observation.claim.deployment not in {None, self._deployment}
        if theirs or event.of_connected_account:
            outcome = RecordedOutcome.NOT_OURS
        return EventRow(
            event_id=event.event_id,
            type=event.type,
            created=event.created,
            api_version=event.api_version,
            object_id=event.object_id,
            livemode=event.livemode,
            outcome=outcome,
            payload=payload,
        )

    async def _quarantine(self, one: ParsedEvent, reason: quarantine.Reason, detail: str) -> EventResult:
        log.warning("event_quarantined", event_key=one.key, reason=reason.value, detail=detail)
        await self._database.run(lambda connection: quarantine.keep(connection, one.key, one.payload, reason, detail))
        return EventResult(one.event.event_id if one.event else None, Outcome.QUARANTINED)


def _waiting(call: _Call, payloads: Sequence[bytes], traceparents: Sequence[str] = ()) -> list[_Waiting]:
    parsed = [parse(payload) for payload in payloads]
    spans: Sequence[tracing.Span | None] = [None] * len(parsed)
    if tracing.is_on():
        spans = event_spans.begin([one.event for one in parsed], traceparents)
    return [_Waiting(one, call, position, span) for position, (one, span) in enumerate(zip(parsed, spans, strict=True))]


def _given(result: EventResult | Exception | None) -> EventResult:
    """Give a result, or raise what stood in its way."""
    if isinstance(result, EventResult):
        return result
    raise result or DatabaseUnavailableError


def _arrival(event: Event, observation: Observation, receipt: int) -> Arrival:
    state = of_event(event, observation, receipt)
    return Arrival(state, observation.claim, observation.anchors, event.event_id, is_vague=observation.is_vague)


def _results(batch: Sequence[ParsedEvent], outcomes: dict[str, Outcome]) -> list[EventResult]:
    """Give each event its outcome; of several copies the first has it, and the others are duplicates."""
    results = []
    left = dict(outcomes)
    for one in batch:
        if one.event is None:
            results.append(EventResult(None, Outcome.QUARANTINED))
        else:
            event_id = one.event.event_id
            results.append(EventResult(event_id, left.pop(event_id, Outcome.DUPLICATE)))
    return results
