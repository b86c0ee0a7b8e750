"""Readiness says what the service says, of itself and of our credential, without asking it more than once a second."""

from __future__ import annotations

import asyncio

from webhook_gateway.readiness import Readiness


class Asked:
    """A question to the service, which counts how often it is asked."""

    def __init__(self, reason: str | None = None) -> None:
        self.asked = 0
        self.reason = reason

    async def __call__(self) -> str | None:
        """Answer after the others had their chance to ask too."""
        self.asked += 1
        await asyncio.sleep(0)
        return self.reason


async def test_many_who_ask_at_once_are_one_question() -> None:
    health, door = Asked(), Asked()
    readiness = Readiness(health, door, kept_s=3600)
    assert await asyncio.gather(*(readiness.why_not_ready() for _ in range(20))) == [None] * 20
    assert (health.asked, door.asked) == (1, 1)


async def test_the_reason_is_told_and_asked_again_later() -> None:
    health = Asked("not_serving")
    readiness = Readiness(health, Asked(), kept_s=0)
    assert await readiness.why_not_ready() == "fulfillment: not_serving"
    health.reason = None
    assert await readiness.why_not_ready() is None


async def test_a_draining_gateway_is_not_ready_whatever_the_service_says() -> None:
    readiness = Readiness(Asked(), Asked())
    readiness.draining = True
    assert await readiness.why_not_ready() == "shutting down"


async def test_a_service_that_refuses_our_credential_is_asked_until_it_does_not_and_then_seldom() -> None:
    health, door = Asked(), Asked("refused")
    readiness = Readiness(health, door, kept_s=0, let_in_s=3600)
    assert [await readiness.why_not_ready() for _ in range(2)] == ["fulfillment: refused"] * 2
    door.reason = None
    assert [await readiness.why_not_ready() for _ in range(2)] == [None] * 2
    assert (health.asked, door.asked) == (4, 3)


async def test_a_service_that_does_not_serve_is_not_asked_about_our_credential() -> None:
    door = Asked()
    assert await Readiness(Asked("unavailable"), door).why_not_ready() == "fulfillment: unavailable"
    assert door.asked == 0


async def test_a_credential_that_is_taken_back_shows_when_its_time_is_over() -> None:
    door = Asked()
    readiness = Readiness(Asked(), door, kept_s=0, let_in_s=0)
    assert await readiness.why_not_ready() is None
    door.reason = "refused"
    assert await readiness.why_not_ready() == "fulfillment: refused"
