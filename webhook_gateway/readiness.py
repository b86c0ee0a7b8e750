"""Whether the gateway can do its work now: the service behind it says that it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_KEPT_S = 1.0


class Readiness:
    """Asks the service's health at most once a second, however many ask here: /readyz is as public as the webhook."""

    def __init__(self, why_not_serving: Callable[[], Awaitable[str | None]], *, kept_s: float = _KEPT_S) -> None:
        """Take what asks the service, and how many seconds an answer is good for."""
        self._why_not_serving = why_not_serving
        self._kept_s = kept_s
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")  # time.monotonic(), seconds
        self._reason: str | None = None
        self.draining = False

    async def why_not_ready(self) -> str | None:
        """Give None when ready, else the reason in a word or two."""
        if self.draining:
            return "shutting down"
        async with self._lock:
            if time.monotonic() - self._asked_at >= self._kept_s:
                self._reason = await self._why_not_serving()
                self._asked_at = time.monotonic()
        return None if self._reason is None else f"fulfillment: {self._reason}"
