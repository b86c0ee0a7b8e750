"""A real listener with a servicer of the test's own, a real channel to it, and what its errors carry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from billing.internal.v1 import fulfillment_service_pb2, fulfillment_service_pb2_grpc
from billing.v1 import billing_service_pb2, billing_service_pb2_grpc, entitlement_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from billing_service.access import Credentials, Identity, Role
from billing_service.address import Address
from billing_service.rpc.guard import Gate
from billing_service.rpc.server import MAX_CALLS, Listener, internal_listener, public_listener
from tests.unserved import Unserved

ANY_PORT = Address("127.0.0.1", 0)
Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Reads(Unserved):
    """GetEntitlements does what the test says, ListPlans answers at once, and the rest is not there."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def GetEntitlements(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Do what the test says."""
        return await self._behaviour(request, context)

    async def ListPlans(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - the contract's name
        """List none."""
        return billing_service_pb2.ListPlansResponse()


class Fulfills(fulfillment_service_pb2_grpc.FulfillmentServiceServicer):
    """Fulfill answers with nothing, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    async def Fulfill(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - the contract's name
        """Count."""
        self.calls += 1
        return fulfillment_service_pb2.FulfillResponse()


@dataclass(frozen=True)
class Wire:
    """A listener that listens, and a channel to it."""

    listener: Listener
    address: Address
    channel: grpc.aio.Channel

    @property
    def billing(self) -> billing_service_pb2_grpc.BillingServiceAsyncStub:
        """The public service."""
        return billing_service_pb2_grpc.BillingServiceStub(self.channel)

    @property
    def fulfillment(self) -> fulfillment_service_pb2_grpc.FulfillmentServiceAsyncStub:
        """The internal service."""
        return fulfillment_service_pb2_grpc.FulfillmentServiceStub(self.channel)


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[Wire]:
    """Start a listener on a free port; stop it hard afterwards."""
    address = await listener.start(ANY_PORT, "TEST_ADDRESS")
    async with grpc.aio.insecure_channel(str(address)) as channel:
        try:
            yield Wire(listener, address, channel)
        finally:
            await listener.stop(0)


@asynccontextmanager
async def serving(listener: Listener) -> AsyncIterator[Wire]:
    """Likewise, with a health that says so: clients that follow it call nobody else."""
    async with listening(listener) as wire:
        await listener.set_serving(serving=True)
        yield wire


@asynccontextmanager
async def public(behaviour: Behaviour, *, max_calls: int = MAX_CALLS) -> AsyncIterator[Wire]:
    """Serve `behaviour` as GetEntitlements on a public listener."""
    async with listening(public_listener(Reads(behaviour), max_calls=max_calls)) as wire:
        yield wire


@asynccontextmanager
async def internal(servicer: Fulfills, tokens: Collection[str]) -> AsyncIterator[Wire]:
    """Serve a FulfillmentService that demands a token."""
    known = Credentials().with_tokens(Identity("gateway", Role.GATEWAY), tokens)
    async with listening(internal_listener(servicer, gate=Gate(lambda: known))) as wire:
        yield wire


async def answered(request: Any, context: Any) -> entitlement_pb2.GetEntitlementsResponse:  # noqa: ARG001 - a behaviour
    """Answer at once."""
    return entitlement_pb2.GetEntitlementsResponse(customer_id=request.customer_id)


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Give the one ErrorInfo that every error of ours carries; the status and its details must agree."""
    status = rpc_status.from_call(error)
    assert status is not None
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "billing.v1"
    return info
