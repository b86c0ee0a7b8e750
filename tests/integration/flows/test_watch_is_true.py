"""A watch says what is so: not that nothing happened where nobody knows, and nothing that reads do not say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows import watch_entitlements
from billing_service.storage import history
from billing_service.storage.database import Connection
from billing_service.storage.history import LoggedChange, Place
from tests.integration.flows.conftest import Service
from tests.integration.flows.test_watch import View, opened, until, watching, whole
from tests.stripe_events import purchase


async def test_who_cannot_read_the_log_does_not_say_that_nothing_happened_and_sends_watchers_elsewhere(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is cut off from Postgres and another is not. A cache that were told "nothing" would call old answers fresh for ever."""
    monkeypatch.setattr(watch_entitlements, "PROGRESS_S", 0.05)
    monkeypatch.setattr(watch_entitlements, "MOST_DEAF_S", 1.0)
    view, tried = View(), asyncio.Event()

    async def away(_connection: Connection, _place: Place, _most: int) -> Sequence[LoggedChange]:
        tried.set()
        raise DatabaseUnavailableError

    async with watching(database_url, service) as cut_off, opened(cut_off) as stream:
        await until(stream, view, whole)
        with monkeypatch.context() as cut:
            cut.setattr(history, "since", away)
            await tried.wait()
            await service.outcomes(*purchase("ann"))
            with pytest.raises(DatabaseUnavailableError):
                await anext(stream)  # nothing is told before it ends
    async with watching(database_url, service) as other, opened(other, None, view.cursor) as stream:
        await until(stream, view, lambda v: v.plans.get("ann") == ("pro",))
    assert view.snapshots == 1
