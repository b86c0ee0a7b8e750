"""Whether the service can answer now: the database answers, and its schema fits. Stripe being away is only a warning."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from billing_service.deadline import deadline_after
from billing_service.domain.errors import BillingError
from billing_service.storage.database import Database
from billing_service.storage.schema import schema_problem

PERIOD_S: Final = 1.0
CHECK_LIMIT_S: Final = 3.0  # a busy pool is not a database that is away; one that takes longer is as good as away
OK: Final = "ok"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Readiness:
    """What the last look found: "ok" or the reason, by what was looked at."""

    checks: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether all of it is well."""
        return all(found == OK for found in self.checks.values())


NOT_CHECKED: Final = Readiness({"database": "not checked yet", "schema": "not checked yet"})
STOPPING: Final = Readiness({"service": "shutting down"})


class ReadinessWatch:
    """Looks every second, and tells whoever must know when the answer has changed."""

    def __init__(
        self,
        database: Database,
        announce: Callable[[bool], Awaitable[None]],
        prepare: Callable[[], Awaitable[object]],
    ) -> None:
        """`announce` is told whether the service is ready, at each change; `prepare` has to succeed before it first is."""
        self._database = database
        self._announce = announce
        self._prepare = prepare
        self.current = NOT_CHECKED
        self.was_ready = asyncio.Event()  # set for good by the first look that finds all well

    async def run(self) -> None:
        """Look for ever.

        Raises:
            Exception: what stands in the way of ever being ready; not that the database is away.
        """
        while True:
            found = await self._look()
            if found.ready and not self.was_ready.is_set():
                found = await self._prepared(found)
            await self._see(found)
            await asyncio.sleep(PERIOD_S)

    async def stop(self) -> None:
        """Say that the service is going. `run` must have ended."""
        await self._see(STOPPING)

    async def _prepared(self, found: Readiness) -> Readiness:
        try:
            await self._prepare()
        except BillingError:
            return Readiness({**found.checks, "database": "does not answer"})
        return found

    async def _look(self) -> Readiness:
        with deadline_after(CHECK_LIMIT_S):
            try:
                problem = await schema_problem(self._database)
            except BillingError:
                return Readiness({"database": "does not answer", "schema": "not known"})
            except Exception as error:  # noqa: BLE001 - a look that fails is an answer too, and must not end the looking
                _log.error("readiness_check_failed", exc_info=error)
                return Readiness({"database": "the check failed; the log has the details", "schema": "not known"})
        return Readiness({"database": OK, "schema": problem or OK})

    async def _see(self, found: Readiness) -> None:
        before, self.current = self.current, found
        if before.ready != found.ready:
            await self._announce(found.ready)
        if found.ready:
            self.was_ready.set()
        if before.checks != found.checks:  # last: who reads the line finds health as it says
            write = _log.info if found.ready or found is STOPPING else _log.warning
            write("readiness", ready=found.ready, **found.checks)
