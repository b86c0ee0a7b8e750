"""The count of what is being answered is bounded, and can be waited on."""

from __future__ import annotations

from webhook_gateway.inflight import LINE_PAUSE_S, InFlight, TurnedAway


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


def test_what_is_turned_away_is_told_at_most_once_in_a_pause_and_all_of_it() -> None:
    """The first at once; those of the pause after it together, with the first after the pause."""
    away = TurnedAway()
    assert [away.note(100.0 + step) for step in (0, 1, 2, LINE_PAUSE_S)] == [1, 0, 0, 3]
    assert away.note(100.0 + LINE_PAUSE_S + 1) == 0
