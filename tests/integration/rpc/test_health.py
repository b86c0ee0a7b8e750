"""Health over real sockets: everybody may ask, and nobody by asking keeps others from being answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from billing.v1 import billing_service_pb2_grpc, entitlement_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types

from billing_service.address import Address
from billing_service.rpc import health as health_module
from billing_service.rpc import server
from billing_service.rpc.guard import OPEN
from billing_service.rpc.health import WATCHES, Health, HealthBounds
from billing_service.rpc.server import PUBLIC_SERVICE, Listener
from tests.integration.rpc.wire import Reads, Wire, answered, error_info, listening, public

_ALL = health_pb2.HealthCheckRequest()
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_LIMIT_S = 120
_CALLS = 20  # of each kind that a small listener takes at once
_WAVE = 40  # at once, half of what it takes in all
_WAVES = 10
_ASK = entitlement_pb2.GetEntitlementsRequest(customer_id="u1")
_WATCH, _CHECK = "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check"


@asynccontextmanager
async def _bounded(bounds: HealthBounds, request_limit_s: float = _LIMIT_S) -> AsyncIterator[Wire]:
    health = partial(Health, watches=bounds, checks=bounds, request_limit_s=request_limit_s)

    def register(server: grpc.aio.Server) -> None:
        billing_service_pb2_grpc.add_BillingServiceServicer_to_server(Reads(answered), server)

    async with listening(Listener(PUBLIC_SERVICE, register, gate=OPEN, health_of=health)) as wire:
        yield wire


def _connection(address: Address) -> grpc.aio.Channel:
    """A connection of its own: gRPC shares them between channels otherwise."""
    return grpc.aio.insecure_channel(str(address), options=(("grpc.use_local_subchannel_pool", 1),))


def _watch(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(_ALL)


async def _said(watch: Any) -> object:
    """Give what a watch is told first: the status, or the reason why it is refused."""
    try:
        return (await watch.read()).status
    except grpc.aio.AioRpcError as error:
        return error_info(error).reason


async def _silent(channel: grpc.aio.Channel, path: str) -> grpc.StatusCode:
    """Open a call without ever sending its message, and give how it ends."""
    call: Any = channel.stream_stream(path)()
    code: grpc.StatusCode = await call.code()
    return code


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have listeners take few calls at once, so that a flood need not be of thousands to be more than that."""
    monkeypatch.setattr(server, "MAX_OTHER_CALLS", _CALLS)
    monkeypatch.setattr(server, "MAX_WATCHES", _CALLS)
    monkeypatch.setattr(health_module, "MAX_HEALTH_CALLS", _CALLS)


@pytest.mark.usefixtures("small")
async def test_more_watches_than_the_listener_takes_calls_cost_nobody_else_anything() -> None:
    """A connection has room for its own few. Callers are answered, and a client that comes then follows health as ever."""
    assert _WAVE * _WAVES > 4 * _CALLS  # in all: a call that was refused gives its place back, or the others found none
    said: Counter[object] = Counter()
    async with (
        asyncio.timeout(_LIMIT_S),
        public(answered, max_calls=_CALLS) as wire,
        _connection(wire.address) as flooding,
    ):
        open_watches = []
        for _ in range(_WAVES):
            watches = [_watch(flooding) for _ in range(_WAVE)]
            said.update(await asyncio.gather(*map(_said, watches)))
            open_watches += [watch for watch in watches if not watch.done()]
        async with _connection(wire.address) as other:
            stub: Any = billing_service_pb2_grpc.BillingServiceStub(other)
            answer = await stub.GetEntitlements(_ASK)
            own = await _said(_watch(other))
    assert said == {_NOT_SERVING: WATCHES.of_connection, "OVERLOADED": _WAVES * _WAVE - WATCHES.of_connection}
    assert len(open_watches) == WATCHES.of_connection
    assert (answer.customer_id, own) == ("u1", _NOT_SERVING)


@pytest.mark.parametrize("bounds", [HealthBounds(9, 9, 2), HealthBounds(9, 2, 9)], ids=["in all", "of a host"])
async def test_watches_are_bounded_over_all_connections_and_there_is_room_again_when_one_ends(
    bounds: HealthBounds,
) -> None:
    async with asyncio.timeout(_LIMIT_S), _bounded(bounds) as wire, _connection(wire.address) as leaving:
        assert [await _said(_watch(channel)) for channel in (wire.channel, leaving)] == [_NOT_SERVING] * 2
        async with _connection(wire.address) as third:
            assert await _said(_watch(third)) == "OVERLOADED"
            await leaving.close()
            while (said := await _said(_watch(third))) == "OVERLOADED":
                pass  # until the server has seen it go
            assert said == _NOT_SERVING


@pytest.mark.parametrize("path", [_WATCH, _CHECK])
async def test_a_call_that_never_sends_its_message_is_counted_and_ended(path: str) -> None:
    """One that asks with headers alone would hold a place before anybody looked at it, and for ever."""
    ended = grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(_LIMIT_S), _bounded(HealthBounds(2, 9, 9), request_limit_s=1) as wire:
        codes = await asyncio.gather(*(_silent(wire.channel, path) for _ in range(3)))
        assert sorted(codes, key=str) == sorted([ended, ended, grpc.StatusCode.RESOURCE_EXHAUSTED], key=str)
        assert await _said(_watch(wire.channel)) == _NOT_SERVING


async def test_what_is_no_question_is_refused_and_what_is_not_known_is_told_so() -> None:
    async with asyncio.timeout(_LIMIT_S), public(answered) as wire:
        unknown = health_pb2.HealthCheckRequest(service="nothing")
        watched = await health_pb2_grpc.HealthStub(wire.channel).Watch(unknown).read()
        with pytest.raises(grpc.aio.AioRpcError) as not_found:
            await health_pb2_grpc.HealthStub(wire.channel).Check(unknown)
        broken: Any = wire.channel.unary_unary(_CHECK)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await broken(b"\xff")
    assert watched.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert not_found.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(refused.value).reason == "INVALID_FIELDS"
