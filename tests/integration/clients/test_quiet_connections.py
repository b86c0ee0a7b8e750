"""Connections on which nothing is said, through something that forgets such ones without a word: a NAT, a load balancer, a firewall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from billing.v1.billing_service_pb2 import ListPlansResponse
from billing.v1.billing_service_pb2_grpc import BillingServiceStub
from billing.v1.entitlement_pb2 import CheckEntitlementRequest, CheckEntitlementResponse
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse
from billing_client import BillingClient, EntitlementCache, Options
from billing_client import options as options_module

from billing_service.rpc import server
from tests.forgetful import Forgetful
from tests.integration.clients.test_cache import BOUND_S, KIND, eventually, number, plans, told
from tests.integration.rpc.wire import serving
from tests.unserved import Unserved

OFTEN = timedelta(milliseconds=100)
CHECK = CheckEntitlementRequest(customer_id="ann", feature_key="export")


class Told(Unserved):
    """Answers checks, and tells a watch what is known when it comes."""

    def __init__(self) -> None:
        self.projects = 3
        self.cursors: list[str] = []
        self.ended = asyncio.Event()  # a watch

    async def CheckEntitlement(self, request: Any, context: Any) -> CheckEntitlementResponse:  # noqa: ARG002, N802 - the contract's name
        """Allow."""
        return CheckEntitlementResponse(allowed=True)

    async def ListPlans(self, request: Any, context: Any) -> ListPlansResponse:  # noqa: ARG002, N802 - the contract's name
        """List one."""
        return plans(3)

    async def WatchEntitlements(  # noqa: N802 - the contract's name
        self,
        request: WatchEntitlementsRequest,
        context: Any,  # noqa: ARG002 - gRPC's
    ) -> AsyncIterator[WatchEntitlementsResponse]:
        """Tell, and say nothing more."""
        self.cursors.append(request.cursor)
        message = told("ann", number("projects", self.projects))
        if request.cursor:
            yield KIND(kind=KIND.KIND_CHANGE, entitlements=message.entitlements, cursor="there")
        else:
            yield KIND(kind=KIND.KIND_SNAPSHOT_BEGIN)
            yield message
            yield KIND(kind=KIND.KIND_SNAPSHOT_END, cursor="here")
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@pytest.fixture
def service() -> Told:
    return Told()


@pytest.fixture
async def forgetful(service: Told, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Forgetful]:
    """One in front of a listener that minds no number of pings; and nobody waits for the answer to one for longer than a test does."""
    hasty = {
        "grpc.http2.min_ping_interval_without_data_ms": 1,
        "grpc.keepalive_time_ms": 100,
        "grpc.http2.ping_timeout_ms": 500,
    }
    monkeypatch.setattr(server, "OPTIONS", tuple((name, hasty.get(name, value)) for name, value in server.OPTIONS))
    monkeypatch.setattr(options_module, "KEEPALIVE_TIMEOUT_S", 0.5)
    async with serving(server.public_listener(service)) as wire, Forgetful(wire.address.port).run() as one:
        yield one


async def test_a_connection_is_kept_up_for_as_long_as_nobody_calls(forgetful: Forgetful) -> None:
    """By pings at the client's own interval: a minute between two of them is too long for some who forget."""
    async with BillingClient(Options([forgetful.address], keepalive=OFTEN)) as client:
        await client.check_entitlement(CHECK)
        begun = forgetful.pings
        await eventually(lambda: forgetful.pings >= begun + 8)
        assert (await client.check_entitlement(CHECK)).allowed
    assert forgetful.connections == 1


async def test_a_connection_that_was_forgotten_while_nobody_called_costs_the_next_check_nothing(
    forgetful: Forgetful,
) -> None:
    """The client notices by itself, and has connected anew by then."""
    async with BillingClient(Options([forgetful.address], keepalive=OFTEN)) as client:
        await client.check_entitlement(CHECK)
        forgetful.forget()
        await eventually(lambda: forgetful.connections == 2)
        async with asyncio.timeout(BOUND_S):
            assert (await client.check_entitlement(CHECK)).allowed


async def test_a_watch_whose_connection_was_forgotten_goes_on_from_its_cursor(
    forgetful: Forgetful, service: Told
) -> None:
    """Nothing comes by the old connection any more, and no end of it either: what changed meanwhile is told all the same."""
    async with (
        BillingClient(Options([forgetful.address], keepalive=OFTEN)) as client,
        EntitlementCache(client) as cache,
    ):
        async with asyncio.timeout(BOUND_S):
            await cache.ready()
        forgetful.forget()
        service.projects = 50
        await eventually(lambda: cache.check("ann", "projects").value == 50)
    assert service.cursors == ["", "here"]


async def test_the_service_ends_the_watch_of_a_caller_who_was_forgotten(forgetful: Forgetful, service: Told) -> None:
    """He may never come again, and would count among those who watch until the connection's age."""
    async with grpc.aio.insecure_channel(forgetful.address) as channel:
        stream = BillingServiceStub(channel).WatchEntitlements(WatchEntitlementsRequest())
        await stream.read()
        forgetful.forget()
        async with asyncio.timeout(BOUND_S):
            await service.ended.wait()
