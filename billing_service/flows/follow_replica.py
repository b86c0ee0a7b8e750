"""Sends reads to a replica while that is known to be hardly behind, and to the primary otherwise.

Several times within the time by which an answer may be old, a beat is written to the primary and the replica is asked for it. No
caller waits for a replica that did not answer the last time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final
from uuid import uuid4

import structlog

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage import replica_beats
from billing_service.storage.database import Connection, Database
from billing_service.storage.replica_reads import ReplicaReads, ReplicaRow, StaleReplicaError
from billing_service.storage.unwritable import UnwritableError

BEATS: Final = 4  # within the time by which an answer may be old: one may be lost, and one be on its way
BEAT_LIMIT_S: Final = 2.0  # of one write; a primary that takes longer leaves the replica unused, which is what is meant
LOOK_LIMIT_S: Final = 1.0  # nobody waits for the answer to this
NOBODY: Final = ""  # no customer has this id

_log = structlog.stdlib.get_logger(__name__)


class ReplicaOutcome(StrEnum):
    """What became of a read that a replica might have answered."""

    ANSWERED = "answered"
    NOT_USED = "not_used"  # it was known to be away, or behind
    STALE = "stale"  # it turned out to be behind
    FAILED = "failed"  # it did not answer, or not as it should
    REVISION = "revision"  # it had not the revision that was asked for


class FollowReplica:
    """Knows whether the replica may be asked, and asks it."""

    def __init__(
        self, primary: Database, replica: Database, most_age_s: float, told: Callable[[ReplicaOutcome], None]
    ) -> None:
        """Take both databases, how old an answer may be, and who is told what became of a read. Not used before the first beat."""
        self._primary = primary
        self._writer = uuid4()
        self._reads = ReplicaReads(replica, self._writer, most_age_s)
        self._pause_s = most_age_s / BEATS
        self._most_age_s = most_age_s
        self._told = told
        self._beat = 0
        self._problem: str | None = "the replica was not asked yet"

    async def run(self) -> None:
        """Follow for ever. Never raises for who is away: `warnings` says it."""
        while True:
            if await self._write():
                await self._look()
            await asyncio.sleep(self._pause_s)

    async def row(self, customer_id: str, min_revision: int) -> ReplicaRow | None:
        """Give a customer's row from the replica; None where the primary has to be asked.

        Raises:
            UnwritableError: the id is no text that Postgres can hold.
        """
        if self._problem is not None:
            self._told(ReplicaOutcome.NOT_USED)
            return None
        outcome, row = await self._ask(customer_id)
        if row is not None and row.revision < min_revision:
            outcome, row = ReplicaOutcome.REVISION, None
        self._told(outcome)
        return row

    def warnings(self) -> list[str]:
        """Say why the replica is not used; nothing while it is."""
        return [] if self._problem is None else [f"all reads go to the primary: {self._problem}"]

    @property
    def age_s(self) -> float:
        """How old an answer of the replica may be by now."""
        return self._reads.age_s

    async def _ask(self, customer_id: str) -> tuple[ReplicaOutcome, ReplicaRow | None]:
        try:
            return ReplicaOutcome.ANSWERED, await self._reads.row(customer_id)
        except UnwritableError:
            raise
        except StaleReplicaError:
            self._see(f"the replica is more than {self._most_age_s * 1000:.0f} ms behind")
            return ReplicaOutcome.STALE, None
        except DatabaseUnavailableError:
            self._see("the replica does not answer")
        except Exception as error:  # noqa: BLE001 - whatever it is, the primary answers; a defect of this row shows there
            _log.error("replica_read_failed", exc_info=error)
        return ReplicaOutcome.FAILED, None

    async def _write(self) -> bool:
        self._beat += 1
        self._reads.begun(self._beat)
        try:
            await self._primary.run(self._written, limit_s=BEAT_LIMIT_S)
        except DatabaseUnavailableError:
            self._see("the primary takes no beats, so how far the replica is behind is not known")
            return False
        return True

    async def _written(self, connection: Connection) -> None:
        if self._beat == 1:
            await replica_beats.forget(connection)
        await replica_beats.write(connection, self._writer, self._beat)

    async def _look(self) -> None:
        try:
            await self._reads.row(NOBODY, limit_s=LOOK_LIMIT_S)
        except StaleReplicaError:
            self._see(f"the replica is more than {self._most_age_s * 1000:.0f} ms behind")
        except DatabaseUnavailableError:
            self._see("the replica does not answer")
        except Exception as error:  # noqa: BLE001 - as one whose schema is older; it must not end the looking
            self._see(f"the replica cannot be read ({type(error).__name__})")
        else:
            self._see(None)

    def _see(self, problem: str | None) -> None:
        before, self._problem = self._problem, problem
        if before == problem:
            return
        if problem is None:
            _log.info("replica_used", age_s=round(self.age_s, 3))
        else:
            _log.warning("replica_not_used", problem=problem)
