"""Readiness says what the service says, without asking it more than once a second."""

from __future__ import annotations

import asyncio

from webhook_gateway.readiness import Readiness


class Health:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.reason: str | None = None

    async def why_not_serving(self) -> str | None:
        """Answer after the others had their chance to ask too."""
        self.asked += 1
        await asyncio.sleep(0)
        return self.reason


async def test_many_who_ask_at_once_are_one_question() -> None:
    health = Health()
    readiness = Readiness(health.why_not_serving, kept_s=3600)
    assert await asyncio.gather(*(readiness.why_not_ready() for _ in range(20))) == [None] * 20
    assert health.asked == 1


async def test_the_reason_is_told_and_asked_again_later() -> None:
    health = Health()
    readiness = Readiness(health.why_not_serving, kept_s=0)
    health.reason = "not_serving"
    assert await readiness.why_not_ready() == "fulfillment: not_serving"
    health.reason = None
    assert await readiness.why_not_ready() is None


async def test_a_draining_gateway_is_not_ready_whatever_the_service_says() -> None:
    readiness = Readiness(Health().why_not_serving)
    readiness.draining = True
    assert await readiness.why_not_ready() == "shutting down"
