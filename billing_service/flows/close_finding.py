"""Closes a finding that a person has dealt with."""

from __future__ import annotations

from dataclasses import dataclass

from billing_service.domain.errors import FindingNotFoundError
from billing_service.domain.operator import Operation, Order
from billing_service.flows.operator_request import Asked, once
from billing_service.storage import findings
from billing_service.storage.database import Connection, Database
from billing_service.storage.findings import Finding, FindingKind


@dataclass(frozen=True)
class _Closed:
    """What a repetition of a request is answered with: which finding it was. What stands in it is read anew, and kept once."""

    kind: FindingKind
    subject: str


class CloseFinding:
    """Closes findings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, order: Order, kind: FindingKind, subject: str) -> Finding:
        """Close a finding and give it; one that was closed before stays as it was.

        Raises:
            FindingNotFoundError: nothing of this kind was found about the subject.
            RequestIdReusedError: the request id was used for something else.
        """

        async def close(connection: Connection) -> Finding:
            found = await findings.find(connection, kind, subject)
            if found is None:
                raise FindingNotFoundError(f"{kind}/{subject}")
            asked = Asked(order, Operation.CLOSE_FINDING, [kind, subject], found.customer_id)

            async def work() -> _Closed:
                await findings.close(connection, kind, [subject])
                return _Closed(kind, subject)

            closed = await once(connection, asked, _Closed, work)
            return await findings.find(connection, closed.kind, closed.subject) or found

        return await self._database.run(close)
