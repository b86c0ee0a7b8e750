"""The two listeners over real sockets: who may call, what health says, and how they start and stop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import pytest
from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import billing_service_pb2, billing_service_pb2_grpc, entitlement_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]  # ships no types

from billing_service.address import Address, ListenError
from billing_service.rpc import server
from billing_service.rpc.guard import OPEN
from billing_service.rpc.server import PUBLIC_SERVICE, Listener, public_listener
from tests.integration.rpc.wire import Fulfills, Reads, Wire, answered, error_info, internal, listening, public

_TOKEN, _NEXT_TOKEN = "a-token-of-the-gateway", "the-token-that-follows"
_ASK = entitlement_pb2.GetEntitlementsRequest(customer_id="u1")
_FULFILL = fulfillment_service_pb2.FulfillRequest()


async def _health(wire: Wire, service: str = "") -> str:
    answer = await health_pb2_grpc.HealthStub(wire.channel).Check(health_pb2.HealthCheckRequest(service=service))
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


async def _services(wire: Wire, metadata: tuple[tuple[str, str], ...] = ()) -> set[str]:
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    call = reflection_pb2_grpc.ServerReflectionStub(wire.channel).ServerReflectionInfo(iter(asked), metadata=metadata)
    return {service.name async for answer in call for service in answer.list_services_response.service}


@pytest.mark.parametrize("token", [_TOKEN, _NEXT_TOKEN])
async def test_the_internal_listener_takes_each_of_its_tokens(token: str) -> None:
    servicer = Fulfills()
    async with internal(servicer, [_TOKEN, _NEXT_TOKEN]) as wire:
        await wire.fulfillment.Fulfill(_FULFILL, metadata=(("authorization", f"Bearer {token}"),))
    assert servicer.calls == 1


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", _TOKEN),),
        (("authorization", f"Basic {_TOKEN}"),),
        (("authorization", "Bearer "),),
        (("authorization", f"Bearer {_TOKEN[:-1]}"),),
        (("authorization", f"Bearer {_TOKEN}x"),),
        (("authorization", f"Bearer {_TOKEN},{_NEXT_TOKEN}"),),
        (("authorization", f"Bearer {_TOKEN}"), ("authorization", "Bearer x")),
        (("x-authorization", f"Bearer {_TOKEN}"),),
    ],
)
async def test_the_internal_listener_refuses_everybody_else(metadata: tuple[tuple[str, str], ...]) -> None:
    servicer = Fulfills()
    async with internal(servicer, [_TOKEN, _NEXT_TOKEN]) as wire:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wire.fulfillment.Fulfill(_FULFILL, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_info(caught.value).reason == "UNAUTHENTICATED"
    assert servicer.calls == 0


async def test_the_public_listener_does_not_serve_fulfilment() -> None:
    async with public(answered) as wire:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wire.fulfillment.Fulfill(_FULFILL, metadata=(("authorization", f"Bearer {_TOKEN}"),))
        assert await _services(wire) == {
            "billing.v1.BillingService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_internal_listener_shows_its_health_to_all_and_its_services_to_who_has_a_token() -> None:
    async with internal(Fulfills(), [_TOKEN]) as wire:
        assert await _health(wire) == "NOT_SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _services(wire)
        shown = await _services(wire, (("authorization", f"Bearer {_TOKEN}"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "billing.internal.v1.FulfillmentService" in shown


async def test_health_is_not_serving_until_told_and_again_when_told() -> None:
    async with public(answered) as wire:
        seen = [await _health(wire, "billing.v1.BillingService")]
        for serving in (True, False):
            await wire.listener.set_serving(serving=serving)
            seen += [await _health(wire, "billing.v1.BillingService"), await _health(wire)]
    assert seen == ["NOT_SERVING", "SERVING", "SERVING", "NOT_SERVING", "NOT_SERVING"]


async def test_a_watcher_hears_of_every_change_and_does_not_hold_up_the_stop() -> None:
    async with public(answered) as wire:
        await wire.listener.set_serving(serving=True)
        watch = health_pb2_grpc.HealthStub(wire.channel).Watch(health_pb2.HealthCheckRequest())
        first = await watch.read()
        async with asyncio.timeout(20):  # far below the grace of the stop
            await wire.listener.stop(60)
        second = await watch.read()
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE
    assert (first.status, second.status) == (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )


def _two_connections() -> Listener:
    """Give a listener that takes two connections at once."""
    return Listener(
        PUBLIC_SERVICE,
        lambda grpc_server: billing_service_pb2_grpc.add_BillingServiceServicer_to_server(Reads(answered), grpc_server),
        gate=OPEN,
        max_connections=2,
    )


async def test_a_connection_beyond_the_bound_is_closed_and_who_has_one_is_answered() -> None:
    """One that leaves makes room for the next."""
    async with listening(_two_connections()) as wire, asyncio.timeout(20):
        await wire.billing.GetEntitlements(_ASK)
        _, held = await asyncio.open_connection(wire.address.host, wire.address.port)
        beyond, writer = await asyncio.open_connection(wire.address.host, wire.address.port)
        assert await beyond.read() == b""
        writer.close()
        await wire.billing.GetEntitlements(_ASK)
        held.close()
        async with grpc.aio.insecure_channel(str(wire.address)) as another:
            stub: Any = billing_service_pb2_grpc.BillingServiceStub(another)
            await stub.GetEntitlements(_ASK, wait_for_ready=True)


async def test_connections_that_say_nothing_give_their_places_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_MS", 500)
    async with listening(_two_connections()) as wire, asyncio.timeout(20):
        silent = [await asyncio.open_connection(wire.address.host, wire.address.port) for _ in range(2)]
        await wire.billing.GetEntitlements(_ASK, wait_for_ready=True)
        for reader, writer in silent:
            await reader.read()  # to its end
            writer.close()


async def _until_refused(address: Address) -> grpc.StatusCode:
    """Call until a call is refused; the caller bounds the time.

    One that reaches gRPC in the moment of the stop may be answered by nobody while others are in flight (seen once): as every caller's, these have a deadline.
    """
    async with grpc.aio.insecure_channel(str(address)) as channel:
        stub: Any = billing_service_pb2_grpc.BillingServiceStub(channel)
        while True:
            try:
                await stub.ListPlans(billing_service_pb2.ListPlansRequest(), timeout=2)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    return error.code()


async def test_a_stop_answers_the_call_that_is_in_flight_and_takes_no_other() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await answered(request, context)

    async with public(behaviour) as wire:
        call = asyncio.ensure_future(wire.billing.GetEntitlements(_ASK))
        async with asyncio.timeout(20):
            await begun.wait()
            stopping = asyncio.create_task(wire.listener.stop(60))
            code = await _until_refused(wire.address)
            go_on.set()
            await stopping
            assert (await call).customer_id == "u1"
    # CANCELLED is what gRPC itself says to a call that had reached the socket, and not yet us, when the stop began.
    assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_stop_cuts_a_call_that_outlives_its_grace() -> None:
    begun = asyncio.Event()

    async def behaviour(_request: Any, _context: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    async with public(behaviour) as wire:
        call = asyncio.ensure_future(wire.billing.GetEntitlements(_ASK))
        async with asyncio.timeout(20):
            await begun.wait()
            await wire.listener.stop(0.1)
            with pytest.raises(grpc.aio.AioRpcError):
                await call


async def test_two_stops_at_once_are_one() -> None:
    async with public(answered) as wire, asyncio.timeout(20):
        await wire.billing.GetEntitlements(_ASK)
        await asyncio.gather(wire.listener.stop(60), wire.listener.stop(0))


async def test_a_port_in_use_by_another_service_is_one_sentence_that_names_the_setting() -> None:
    async with public(answered) as wire:
        with pytest.raises(ListenError, match=r"BILLING_GRPC_ADDRESS: cannot listen on .*: address already in use\."):
            await public_listener(Reads(answered)).start(wire.address, "BILLING_GRPC_ADDRESS")


async def test_a_name_with_several_addresses_needs_all_of_them() -> None:
    """Localhost may be 127.0.0.1 and ::1; gRPC would be content with either, and hide the clash."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("localhost", taken.getsockname()[1])
        with pytest.raises(ListenError, match="already in use"):
            await public_listener(Reads(answered)).start(address, "BILLING_GRPC_ADDRESS")


async def test_a_host_that_is_not_known_is_one_sentence() -> None:
    with pytest.raises(ListenError, match="not known"):
        await public_listener(Reads(answered)).start(Address("nowhere.invalid", 0), "BILLING_GRPC_ADDRESS")
