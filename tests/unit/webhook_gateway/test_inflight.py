"""The count of what is being answered is bounded, and can be waited on."""

from __future__ import annotations

from webhook_gateway.inflight import InFlight


def test_there_is_room_up_to_the_limit_and_again_when_one_leaves() -> None:
    in_flight = InFlight(limit=2)
    assert [in_flight.enter() for _ in range(3)] == [True, True, False]
    in_flight.leave()
    assert in_flight.enter()


async def test_idle_is_when_the_last_has_left() -> None:
    in_flight = InFlight()
    assert await in_flight.wait_idle(0)
    in_flight.enter()
    assert not await in_flight.wait_idle(0)
    in_flight.leave()
    assert await in_flight.wait_idle(0)
