"""Wakes those who wait for checkout sessions: one query for all of them, ten times a second, and none while nobody waits.

A look costs three look-ups by key for each session; it needs no connection that listens, and misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context

import structlog

from billing_service.domain.errors import BillingError
from billing_service.logs import named
from billing_service.storage import checkout_progress
from billing_service.storage.database import Connection, Database

LOOK_S = 0.1

log = structlog.get_logger(__name__)


class CheckoutChanges:
    """Looks for whoever waits in this process; how many may is for the caller to bound."""

    def __init__(self, database: Database) -> None:
        """Does nothing before the first wait."""
        self._database = database
        self._waiting: dict[asyncio.Future[None], tuple[str, str]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def changed(self, session_id: str, stamp: str, limit_s: float) -> None:
        """Wait until the stamp of a session is another one, for so long at the most. Never raises for a database that is away."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        self._waiting[woken] = (session_id, stamp)
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look(), context=Context())  # nobody's deadline, nobody's call
        try:
            await asyncio.wait({woken}, timeout=max(0.0, limit_s))
        finally:
            self._waiting.pop(woken, None)

    async def _look(self) -> None:
        while self._waiting:
            try:
                self._wake(await self._database.run(self._stamps))
            except BillingError as error:
                log.warning("checkout_look_failed", error=named(error))
            await asyncio.sleep(LOOK_S)

    async def _stamps(self, connection: Connection) -> Mapping[str, str]:
        return await checkout_progress.stamps(connection, {session_id for session_id, _ in self._waiting.values()})

    def _wake(self, stamps: Mapping[str, str]) -> None:
        for woken, (session_id, stamp) in self._waiting.items():
            if stamps.get(session_id, "") != stamp and not woken.done():
                woken.set_result(None)

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
