"""Takes out what was kept for long enough, a little at a time, so that nobody who works notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.logs import named
from billing_service.storage import history_horizon, retention
from billing_service.storage.database import Connection, Database
from billing_service.storage.history_horizon import Trimmed

INTERVAL_S: Final = 3_600.0
PAUSE_S: Final = 0.2  # between two batches: 2,500 rows a second at most

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Kept:
    """For how long each is kept."""

    payloads: timedelta  # and, counted from then, what was discarded
    events: timedelta  # their ids; not shorter than the former
    history: timedelta  # what customers had


@dataclass(frozen=True)
class Removed:
    """How much of each a round took out."""

    payloads: int = 0
    events: int = 0
    discarded: int = 0
    changes: int = 0
    facts: int = 0
    told_facts: int = 0


class Retention:
    """One round after the other. Any number of processes may run one each."""

    def __init__(self, database: Database, kept: Kept, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process, by which the history was written; events have the database's."""
        self._database = database
        self._kept = kept
        self._now = now

    async def run(self) -> None:
        """Go round for ever. While the database is away there is nothing to do."""
        while True:
            try:
                removed = await self.once()
            except DatabaseUnavailableError as error:
                _log.warning("retention_interrupted", error=named(error))
            else:
                if removed != Removed():
                    _log.info("retention", **asdict(removed))
            await asyncio.sleep(INTERVAL_S)

    async def once(self) -> Removed:
        """Take out all that is due.

        Raises:
            DatabaseUnavailableError: it is away. What was taken out is, and the next round goes on.
        """
        kept, before = self._kept, self._now() - self._kept.history
        return Removed(
            payloads=await self._drain(lambda connection: retention.empty_payloads(connection, kept.payloads)),
            events=await self._drain(lambda connection: retention.delete_events(connection, kept.events)),
            discarded=await self._drain(lambda connection: retention.delete_discarded(connection, kept.payloads)),
            changes=await self._drain(lambda connection: history_horizon.trim_changes(connection, before)),
            facts=await self._drain(lambda connection: history_horizon.trim_facts(connection, before)),
            told_facts=await self._drain(lambda connection: retention.delete_told_facts(connection, kept.events)),
        )

    async def _drain(self, work: Callable[[Connection], Awaitable[Trimmed]]) -> int:
        total = 0
        while True:
            done = await self._database.run(work)
            total += done.rows
            if not done.more:
                return total
            await asyncio.sleep(PAUSE_S)
