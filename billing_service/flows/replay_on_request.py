"""Replays events in quarantine for an operator, a page at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from billing_service.domain.errors import EventNotFoundError
from billing_service.domain.operator import Operation, Order
from billing_service.flows.fulfill import Outcome
from billing_service.flows.operator_request import Asked, answered, keep
from billing_service.flows.replay import Replay
from billing_service.storage.database import Database
from billing_service.storage.quarantine import Reason


@dataclass(frozen=True)
class ReplayWish:
    """Which events: the one of a key, or the next of a reason after a key, `most` at most."""

    event_key: str | None
    reason: Reason | None
    after: str
    most: int


@dataclass(frozen=True)
class ReplayedPage:
    """What became of them, and the key to go on from; None where every one was tried."""

    outcomes: Mapping[Outcome, int]
    last: str | None


class ReplayOnRequest:
    """Replays what is asked for."""

    def __init__(self, database: Database, replay: Replay) -> None:
        self._database = database
        self._replay = replay

    async def __call__(self, order: Order, wish: ReplayWish) -> ReplayedPage:
        """Replay, and say what became of the events. Broken off, it has replayed a part, and nothing twice.

        Raises:
            EventNotFoundError: the one that was asked for is not in quarantine.
            OverloadedError: too much is waiting to be written.
            RequestIdReusedError: the request id was used for something else.
        """
        asked = Asked(order, Operation.REPLAY_EVENTS, wish)
        before = await self._database.run(lambda connection: answered(connection, asked, ReplayedPage))
        if before is not None:
            return before
        reasons = frozenset(Reason) if wish.reason is None else {wish.reason}
        replayed, last = await self._replay.page(reasons, wish.event_key, wish.after, wish.most)
        if wish.event_key is not None and not replayed.count:
            raise EventNotFoundError(wish.event_key)
        page = ReplayedPage(dict(replayed.outcomes), last)
        return await self._database.run(lambda connection: keep(connection, asked, page))
