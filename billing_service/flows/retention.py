"""Takes out what was kept for long enough, a little at a time, so that nobody who works notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import structlog

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage import retention
from billing_service.storage.database import Connection, Database

INTERVAL_S: Final = 3_600.0
PAUSE_S: Final = 0.2  # between two batches: 2,500 rows a second at most

_log = structlog.stdlib.get_logger(__name__)


class Retention:
    """One round after the other. Any number of processes may run one each."""

    def __init__(self, database: Database, payloads: timedelta, events: timedelta) -> None:
        """Take for how long bodies are kept, and for how long the ids of events; the latter is not the shorter."""
        self._database = database
        self._payloads = payloads
        self._events = events

    async def run(self) -> None:
        """Go round for ever. While the database is away there is nothing to do."""
        while True:
            try:
                emptied, deleted = await self.once()
            except DatabaseUnavailableError as error:
                _log.warning("retention_interrupted", error=str(error))
            else:
                if emptied or deleted:
                    _log.info("retention", emptied=emptied, deleted=deleted)
            await asyncio.sleep(INTERVAL_S)

    async def once(self) -> tuple[int, int]:
        """Take out all that is due; say how many bodies and how many events.

        Raises:
            DatabaseUnavailableError: it is away. What was taken out is, and the next round goes on.
        """
        emptied = await self._drain(lambda connection: retention.empty_payloads(connection, self._payloads))
        deleted = await self._drain(lambda connection: retention.delete_events(connection, self._events))
        return emptied, deleted

    async def _drain(self, work: Callable[[Connection], Awaitable[int]]) -> int:
        total = 0
        while found := await self._database.run(work):
            total += found
            if found < retention.BATCH:
                break
            await asyncio.sleep(PAUSE_S)
        return total
