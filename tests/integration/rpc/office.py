"""The operators' service over a real listener, and the world that it looks into: the stage of the tests of `test_admin_...`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from billing.admin.v1 import (
    admin_service_pb2_grpc,
    customer_pb2,
)
from google.protobuf.message_factory import GetMessageClass

from billing_service.access import Credentials, Identity, Role
from billing_service.flows.change_grants import ChangeGrants
from billing_service.flows.close_finding import CloseFinding
from billing_service.flows.describe_customer import DescribeCustomer
from billing_service.flows.discard_quarantined_event import DiscardQuarantinedEvent
from billing_service.flows.erase_customer import EraseCustomer
from billing_service.flows.link_stripe_customer import LinkStripeCustomer
from billing_service.flows.look_up import LookUp
from billing_service.flows.reconcile import Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.reconcile_on_request import ReconcileOnRequest
from billing_service.flows.replay import Replay
from billing_service.flows.replay_on_request import ReplayOnRequest
from billing_service.flows.request_budget import RequestBudget
from billing_service.rpc.admin_servicer import AdminFlows, AdminServicer
from billing_service.rpc.guard import Gate
from billing_service.rpc.server import ADMIN_SERVICE, internal_listener
from tests.integration.flows.test_refresh import PLENTY, World
from tests.integration.rpc.wire import Fulfills, error_info, listening

METHODS = [method.name for method in ADMIN_SERVICE.methods]
BOUND_S = 30  # for anything that a test waits for; far beyond what it takes
_numbers = itertools.count(1)


def asked(**more: Any) -> dict[str, Any]:
    """Give what every mutation has, with a request id of its own."""
    return {"request_id": f"request-{next(_numbers)}", "actor": "eve@ops.example", "reason": "ticket 7"} | more


@dataclass
class Office:
    """The operators' service, and the world that it looks into."""

    world: World
    erase: EraseCustomer
    channel: grpc.aio.Channel
    token: str = "of-an-admin"

    def __getattr__(self, method: str) -> Any:
        """Give a method of the service, called with the token of an admin."""
        call = getattr(admin_service_pb2_grpc.AdminServiceStub(self.channel), method)
        return lambda request, **more: call(
            request, metadata=(("authorization", f"Bearer {self.token}"),), timeout=BOUND_S, **more
        )

    async def refused(self, call: Any) -> str:
        """Give the reason with which a call is refused."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        return str(error_info(refused.value).reason)

    async def bought(self, *names: str) -> None:
        """Have customers buy, and everything heard of it."""
        for name in names:
            await self.world.buy(name)
        await self.world.fulfill(await self.world.events())

    async def customer(self, customer_id: str) -> customer_pb2.Customer:
        """Give all that is known of a customer."""
        answer = await self.GetCustomer(customer_pb2.GetCustomerRequest(customer_id=customer_id))
        found: customer_pb2.Customer = answer.customer
        return found


def now() -> datetime:
    """Give a time after the second of the last event: a walk ends before the second in which it begins."""
    return datetime.now(UTC) + timedelta(seconds=2)


def flows(world: World, erase: EraseCustomer) -> AdminFlows:
    database, listing, budget = world.database, world.stripe.listing, RequestBudget(world.database, PLENTY)
    events = Reconcile(database, listing, world.fulfill, budget, now)
    objects = ReconcileObjects(database, listing, world.reads, budget, "default", now)
    clock = lambda: datetime.now(UTC)  # noqa: E731 - the clock, in one line
    return AdminFlows(
        describe_customer=DescribeCustomer(database, world.prices, clock),
        look_up=LookUp(database, world.prices, clock),
        change_grants=ChangeGrants(database, world.prices, clock),
        link_stripe_customer=LinkStripeCustomer(database, world.reads, world.prices, clock),
        replay=ReplayOnRequest(database, Replay(database, world.fulfill)),
        discard_quarantined_event=DiscardQuarantinedEvent(database),
        reconcile=ReconcileOnRequest(database, events, objects, now),
        close_finding=CloseFinding(database),
        erase_customer=erase,
    )


@pytest.fixture
async def office(world: World) -> AsyncIterator[Office]:
    known = Credentials()
    for role in Role:
        known = known.with_tokens(Identity(role.value, role), [f"of-an-{role.value}"])
    async with AsyncExitStack() as stack:
        erase = EraseCustomer(world.database, lambda: datetime.now(UTC))
        admin = AdminServicer(flows(world, erase), lambda: datetime.now(UTC))
        listener = internal_listener(Fulfills(), admin, gate=Gate(lambda: known))
        wire = await stack.enter_async_context(listening(listener))
        yield Office(world, erase, wire.channel)


def request_of(method: str) -> Any:
    """Give an empty request of a method."""
    return GetMessageClass(ADMIN_SERVICE.methods_by_name[method].input_type)()


async def read(call: Any) -> list[Any]:
    """Give every message of a stream, or the one of a call."""
    return [message async for message in call] if hasattr(call, "__aiter__") else [await call]
