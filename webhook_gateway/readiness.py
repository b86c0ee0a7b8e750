"""Whether the gateway can do its work now: the service behind it says that it serves, and lets us in.

Health asks nobody who he is, so that it says nothing of our token or certificate. And a gateway that is not ready may get no
webhooks that could tell: so readiness asks for itself, and is there again as soon as the credential is good.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

_KEPT_S: Final = 1.0
LET_IN_S: Final = 10.0  # as often as the service looks at its access file; each question is a line in its log

WhyNot = Callable[[], Awaitable[str | None]]


class Readiness:
    """Asks the service at most once a second, however many ask here: /readyz is as public as the webhook."""

    def __init__(
        self, why_not_serving: WhyNot, why_not_let_in: WhyNot, *, kept_s: float = _KEPT_S, let_in_s: float | None = None
    ) -> None:
        """Take what asks the service, how many seconds an answer is good for, and how many after it has let us in."""
        self._why_not_serving, self._why_not_let_in = why_not_serving, why_not_let_in
        self._kept_s, self._let_in_s = kept_s, LET_IN_S if let_in_s is None else let_in_s
        self._lock = asyncio.Lock()
        self._asked_at = self._let_in_at = float("-inf")  # time.monotonic(), seconds
        self._reason: str | None = None
        self.draining = False

    async def why_not_ready(self) -> str | None:
        """Give None when ready, else the reason in a word or two."""
        if self.draining:
            return "shutting down"
        async with self._lock:
            if time.monotonic() - self._asked_at >= self._kept_s:
                self._reason = await self._ask()
                self._asked_at = time.monotonic()
        return None if self._reason is None else f"fulfillment: {self._reason}"

    async def _ask(self) -> str | None:
        reason = await self._why_not_serving()
        if reason is not None or time.monotonic() - self._let_in_at < self._let_in_s:
            return reason
        reason = await self._why_not_let_in()
        if reason is None:
            self._let_in_at = time.monotonic()
        return reason
