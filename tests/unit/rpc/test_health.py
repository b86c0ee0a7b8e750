"""How many may ask about health, and what they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # ships no types

from billing_service.domain.errors import OverloadedError
from billing_service.rpc import health
from billing_service.rpc.health import Health, HealthBounds, HealthRoom

_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("bounds", "fits", "beyond"),
    [
        (HealthBounds(2, 9, 9), ["ipv4:10.0.0.1:1", "ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2"], "ipv4:10.0.0.1:1"),
        (HealthBounds(9, 2, 9), ["ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2", "ipv4:10.0.0.2:1"], "ipv4:10.0.0.1:3"),
        (HealthBounds(9, 2, 9), ["ipv6:%5B::1%5D:1", "ipv6:%5B::1%5D:2", "ipv6:%5B::2%5D:1"], "ipv6:%5B::1%5D:3"),
        (HealthBounds(9, 9, 2), ["ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1"], "ipv4:10.0.0.3:1"),
    ],
)
def test_each_bound_holds_by_itself_and_what_ends_makes_room(
    bounds: HealthBounds, fits: list[str], beyond: str
) -> None:
    room = HealthRoom(bounds)
    for _ in range(2):
        with ExitStack() as open_calls:
            for peer in fits:
                open_calls.enter_context(room.held(peer))
            with pytest.raises(OverloadedError), room.held(beyond):
                pass
        assert not room._of, "what is remembered is bounded by what is open"


class _Context:
    def peer(self) -> str:
        return "ipv4:10.0.0.1:1"


async def _asked() -> AsyncIterator[bytes]:
    yield b""


def _watch(one: Health) -> AsyncIterator[Any]:
    context: Any = _Context()
    return one._watch(_asked(), context)


async def test_a_watcher_that_does_not_read_keeps_nobody_from_hearing_the_truth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GRPC's own servicer writes under the lock of all: one full window, and a service that stops seems to serve for ever."""
    monkeypatch.setattr(health, "TELL_LIMIT_S", 0.01)
    one = Health([""])
    stuck, reading = _watch(one), _watch(one)
    assert [(await anext(watch)).status for watch in (stuck, reading)] == [_NOT_SERVING] * 2
    await one.tell(serving=True)
    assert (await anext(reading)).status == _SERVING
    await one.end()
    assert (await anext(reading)).status == _NOT_SERVING
    await one.tell(serving=True)
    assert (await anext(_watch(one))).status == _NOT_SERVING, "nothing is said after the end"
