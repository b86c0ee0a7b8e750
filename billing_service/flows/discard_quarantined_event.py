"""Decides that an event in quarantine waits for nothing any more: it will never be understood, or is not wanted."""

from __future__ import annotations

from billing_service.domain.errors import EventNotFoundError
from billing_service.domain.operator import Operation, Order
from billing_service.flows.operator_request import Asked, once
from billing_service.storage import quarantine
from billing_service.storage.database import Connection, Database
from billing_service.storage.quarantine import QuarantinedEvent


class DiscardQuarantinedEvent:
    """Discards events in quarantine."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, order: Order, event_key: str) -> QuarantinedEvent:
        """Discard an event and give it as it stood then; one that was discarded before stays as it was.

        The answer is kept whole, because the event may leave the quarantine before the request comes again.

        Raises:
            EventNotFoundError: it is not in quarantine.
            RequestIdReusedError: the request id was used for something else.
        """
        asked = Asked(order, Operation.DISCARD_QUARANTINED_EVENT, event_key)

        async def discard(connection: Connection) -> QuarantinedEvent:
            async def work() -> QuarantinedEvent:
                found = await quarantine.discard(connection, event_key)
                if found is None:
                    raise EventNotFoundError(event_key)
                return found

            return await once(connection, asked, QuarantinedEvent, work)

        return await self._database.run(discard)
