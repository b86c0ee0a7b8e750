"""The cache for threads: its watch lives in a thread of its own, and `check` is a look-up from any."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from billing_client.aio import BillingClient
from billing_client.cache import Check, EntitlementCache
from billing_client.options import Options

STOP_S = 5.0


class SyncEntitlementCache:
    """An `EntitlementCache` for programs without asyncio. Takes the same arguments after the options."""

    def __init__(self, options: Options, **arguments: Any) -> None:
        """Nothing runs before it is entered."""
        self._options = options
        self._arguments = arguments
        self._cache: EntitlementCache | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="billing-cache", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_S)

    def ready(self, timeout: timedelta = timedelta(seconds=10)) -> None:
        """Wait until the first snapshot is whole.

        Raises:
            TimeoutError: it was not in time.
            BillingError: the watch was refused.
        """
        if self._loop is None or self._cache is None:
            raise RuntimeError("enter the cache first")
        asyncio.run_coroutine_threadsafe(self._cache.ready(), self._loop).result(timeout.total_seconds())

    @property
    def check(self) -> Callable[[str, str], Check]:
        """The check itself; see `EntitlementCache.check`."""
        if self._cache is None:
            raise RuntimeError("enter the cache first")
        return self._cache.check

    async def _live(self) -> None:
        try:
            client = BillingClient(self._options)
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self._cache = EntitlementCache(client, **self._arguments)
        except BaseException as error:  # whatever it is, the thread that waits is to hear of it
            self._begun.set_exception(error)
            raise
        async with client, self._cache:
            self._begun.set_result(None)
            await self._stop.wait()
