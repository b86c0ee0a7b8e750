"""Applies verified events: recorded and merged in one transaction, answered after its commit.

What arrives while a transaction is under way is gathered and makes the next one; nothing ever waits for company. The
writer is a task of its own, so one caller's cancellation never cancels its neighbours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec
import structlog

from billing_service.deadline import deadline_after, remaining_s
from billing_service.domain.errors import BillingError, DatabaseUnavailableError, OverloadedError
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.merge import of_event
from billing_service.domain.observation import Event, Observation, read_event
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.apply import Context, apply
from billing_service.flows.arrival import Arrival
from billing_service.flows.prices import Prices
from billing_service.storage import events, quarantine, rereads
from billing_service.storage.database import Connection, Database, UnwritableError
from billing_service.storage.events import EventRow, RecordedOutcome
from billing_service.storage.rereads import Ask

MAX_BATCH_EVENTS = 256  # in one transaction; as many as one call may bring
MAX_BATCH_BYTES = 8 * 1024 * 1024  # a call brings 4 MiB at the most
MAX_WAITING_EVENTS = 4_096  # beyond, callers are told to come again
MAX_WAITING_BYTES = 64 * 1024 * 1024
BATCH_LIMIT_S = 8.0  # for one transaction, retries included
CALL_LIMIT_S = 15.0  # for one call that came without a deadline

PRICE_TYPES = (
    "product.",
    "price.",
    "v1.product.",
    "v1.price.",
)  # without effect on what anybody holds; they only hint that prices may have moved

log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What became of an event; the contract's FulfillResult.Outcome."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    NOT_OURS = "not_ours"
    QUARANTINED = "quarantined"
    PARKED = "parked"


@dataclass(frozen=True)
class EventResult:
    """What became of one event; `event_id` is None where it could not be read."""

    event_id: str | None
    outcome: Outcome


@dataclass(frozen=True)
class _Parsed:
    """One event of a batch: understood, or malformed with what is wrong."""

    key: str
    payload: bytes
    event: Event | None
    problem: str = ""


@dataclass
class _Waiting:
    """One event in the queue, and where its result goes."""

    parsed: _Parsed
    result: asyncio.Future[EventResult]


class Fulfill:
    """The writer in front of Postgres. `run` must be under way for calls to be answered."""

    def __init__(self, database: Database, prices: Prices, deployment: str, now: Callable[[], datetime]) -> None:
        """Takes nothing before `run`. `now` is the one clock of the process."""
        self._now = now
        self._database = database
        self._prices = prices
        self._deployment = deployment
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False

    async def __call__(self, payloads: Sequence[bytes]) -> Sequence[EventResult]:
        """Apply events, byte for byte as Stripe sent them, and give one result each, in order, after the commit.

        Raises:
            OverloadedError: too many are waiting.
            DatabaseUnavailableError: they could not be written in time; nothing was lost, send them again.
        """
        size = sum(len(payload) for payload in payloads)
        too_many = len(self._queue) + len(payloads) > MAX_WAITING_EVENTS
        # One call always fits into an empty queue, whatever its size: gRPC bounds it.
        too_large = bool(self._queue) and self._queued_bytes + size > MAX_WAITING_BYTES
        if self._closing or too_many or too_large:
            raise OverloadedError
        self._queued_bytes += size
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(parse(payload), loop.create_future()) for payload in payloads]
        self._queue.extend(waiting)
        self._wake.set()
        futures = [one.result for one in waiting]
        try:
            async with asyncio.timeout(remaining_s(CALL_LIMIT_S)):
                return await asyncio.gather(*(asyncio.shield(future) for future in futures))
        except TimeoutError as error:
            raise DatabaseUnavailableError from error
        finally:
            for future in futures:  # an error that nobody is left to hear
                future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def run(self) -> None:
        """Write batch after batch, until `close` was called and the queue is empty."""
        while not (self._closing and not self._queue):
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = self._take()
            try:
                await self._write(batch)
            except Exception as error:  # noqa: BLE001 - the writer outlives whatever one batch does; callers hear of it
                self._fail(batch, error)
            if any(one.parsed.event and one.parsed.event.type.startswith(PRICE_TYPES) for one in batch):
                self._prices.hint()

    async def close(self) -> None:
        """Take nothing more; `run` returns once everything that waits is written."""
        self._closing = True
        self._wake.set()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH_EVENTS:
            size += len(self._queue[0].parsed.payload)
            if batch and size > MAX_BATCH_BYTES:
                break
            waiting = self._queue.popleft()
            self._queued_bytes -= len(waiting.parsed.payload)
            batch.append(waiting)
        return batch

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        if not isinstance(error, BillingError):
            log.error("fulfill_failed", events=len(batch), exc_info=error)
        for one in batch:
            if not one.result.done():
                one.result.set_exception(error)

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
            _set(one.result, result)
        return None

    async def _write_one_by_one(self, batch: Sequence[_Waiting]) -> None:
        for one in batch:
            await self._write([one])

    async def _transact(self, connection: Connection, batch: Sequence[_Parsed], plans: PlanIndex) -> list[EventResult]:
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
        receipts = await events.record(connection, rows)
        if receipts:
            await quarantine.release(connection, receipts)
        outcomes = {row.event_id: Outcome(row.outcome.value) for row in rows if row.event_id in receipts}
        used = {
            event_id: (event, event.observation)
            for event_id, (event, _) in distinct.items()
            if outcomes.get(event_id) is Outcome.APPLIED and event.observation is not None
        }
        asks = [
            Ask(event.notice.object_id, event.notice.kind, delay_s=0)
            for event_id, (event, _) in distinct.items()
            if outcomes.get(event_id) is Outcome.APPLIED and event.notice is not None
        ]
        if used:
            arrivals = [_arrival(event, seen, receipts[event.event_id]) for event, seen in used.values()]
            parked = await apply(connection, arrivals, Context(plans, self._deployment, self._now()), asks)
            outcomes |= {i: Outcome.PARKED for i, (_, seen) in used.items() if seen.object_id in parked}
        elif asks:
            await rereads.ask(connection, asks)
        return outcomes

    def _row(self, event: Event, payload: bytes) -> EventRow:
        outcome = RecordedOutcome.APPLIED if event.is_used else RecordedOutcome.IGNORED
        if event.observation is not None and event.observation.claim.deployment not in {None, self._deployment}:
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

    async def _quarantine(self, one: _Parsed, reason: quarantine.Reason, detail: str) -> EventResult:
        log.warning("event_quarantined", event_key=one.key, reason=reason.value, detail=detail)
        await self._database.run(lambda connection: quarantine.keep(connection, one.key, one.payload, reason, detail))
        return EventResult(one.event.event_id if one.event else None, Outcome.QUARANTINED)


def parse(payload: bytes) -> _Parsed:
    """Understand one body; one that cannot be is malformed, and its key is the hash of its bytes."""
    try:
        event = read_event(_decode(payload))
        _check_key(event.event_id)
    except MalformedError as error:
        return _Parsed(_hash_key(payload), payload, None, str(error))
    return _Parsed(event.event_id, payload, event)


def _decode(payload: bytes) -> object:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # the standard library reads more: lone surrogates, which Stripe passes on from whoever wrote the metadata
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MalformedError("the body is not JSON") from error


def _check_key(event_id: str) -> None:
    """A key must be writable whatever else is wrong, or the event could not even be quarantined."""
    if not event_id.isascii() or not event_id.isprintable() or len(event_id) > 255:
        raise MalformedError("id is not an event id")


def _hash_key(payload: bytes) -> str:
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


def _arrival(event: Event, observation: Observation, receipt: int) -> Arrival:
    return Arrival(of_event(event, observation, receipt), observation.claim, observation.anchors, event.event_id)


def _results(batch: Sequence[_Parsed], outcomes: dict[str, Outcome]) -> list[EventResult]:
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


def _set(future: asyncio.Future[EventResult], result: EventResult) -> None:
    if not future.done():
        future.set_result(result)
