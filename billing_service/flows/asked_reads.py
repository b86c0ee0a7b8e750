"""Asks Stripe about an object that somebody waits for: once, however many wait, in this process and in all others.

It shares the queue of re-reads: whoever holds the lease reads, the others see what comes of it in the database. A read is a task
of its own, so that a caller who goes away takes nobody along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from datetime import datetime

import structlog

from billing_service import tracing
from billing_service.deadline import deadline_after
from billing_service.domain.errors import BillingError
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.views import ObjectKind
from billing_service.flows.reads import FinishLeft, Reads
from billing_service.logs import named
from billing_service.storage import rereads
from billing_service.storage.database import Database
from billing_service.storage.unwritable import UnwritableError
from billing_service.stripe_api.errors import StripeCallError

READ_LIMIT_S = 12.0  # less than a lease
FRESH_S = 2  # what was read so lately is not asked for again; also what two whole seconds may differ by

log = structlog.get_logger(__name__)


class AskedReads:
    """The reads that callers of this process wait for; as many as there are callers who wait, at the most."""

    def __init__(
        self, database: Database, reads: Reads, now: Callable[[], datetime], finish_left: FinishLeft | None = None
    ) -> None:
        """`now` is the one clock of the process; `finish_left` hears of each subscription that was read."""
        self._finish_left = finish_left
        self._database = database
        self._reads = reads
        self._now = now
        self._running: dict[str, asyncio.Task[bool]] = {}

    def ask(self, kind: ObjectKind, object_id: str) -> asyncio.Task[bool]:
        """Begin to read an object, or join who does; the task says whether Stripe was heard. It never raises."""
        running = self._running.get(object_id)
        if running is None:
            # A context of its own: neither the caller's deadline nor his call's id are those of the others.
            running = asyncio.get_running_loop().create_task(
                self._read(kind, object_id, tracing.traceparent()), context=Context()
            )
            self._running[object_id] = running
            running.add_done_callback(lambda _: self._running.pop(object_id, None))
        return running

    async def close(self) -> None:
        """End what is running."""
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _read(self, kind: ObjectKind, object_id: str, asked_by: str | None) -> bool:
        with deadline_after(READ_LIMIT_S), tracing.span(f"read {kind.value}", parent=asked_by):
            try:
                return await self._read_claimed(kind, object_id)
            except (BillingError, UnwritableError) as error:
                log.warning("asked_read_failed", object_id=object_id, error=named(error))
                return False

    async def _read_claimed(self, kind: ObjectKind, object_id: str) -> bool:
        since = int(self._now().timestamp()) - FRESH_S
        claimed = await self._database.run(lambda c: rereads.claim_now(c, object_id, kind, since))
        if claimed is None:
            return False
        try:
            await self._reads.object(kind, object_id)
        except (StripeCallError, MalformedError, UnwritableError, BillingError) as error:
            log.warning("asked_read_failed", object_id=object_id, error=named(error))
            await self._database.run(lambda c: rereads.later(c, claimed))
            return False
        over = rereads.done if await self._is_finished(kind, object_id) else rereads.later
        await self._database.run(lambda c: over(c, claimed))
        return True

    async def _is_finished(self, kind: ObjectKind, object_id: str) -> bool:
        """Finish what was left about a subscription, for which it may have been queued; say False where that could not be done now."""
        if kind is not ObjectKind.SUBSCRIPTION or self._finish_left is None:
            return True
        try:
            await self._finish_left(object_id)
        except (StripeCallError, MalformedError, BillingError) as error:
            log.warning("change_not_finished", object_id=object_id, error=named(error))
            return False
        return True
