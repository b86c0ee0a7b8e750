"""Operators, erasings and events at once, about the same two customers, end where one after another would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

import pytest
from billing.admin.v1 import customer_pb2, grant_pb2

from tests.integration.flows.test_refresh import World
from tests.integration.rpc.office import Office, asked

NAMES = ("ann", "ben")
ROUNDS = 6  # of each kind of work
Work = Callable[[], Awaitable[Any]]


def link(office: Office, stripe_customer_id: str, customer_id: str) -> Awaitable[Any]:
    wish = asked(customer_id=customer_id, stripe_customer_id=stripe_customer_id, replace=True)
    call: Awaitable[Any] = office.LinkStripeCustomer(customer_pb2.LinkStripeCustomerRequest(**wish))
    return call


def grant(office: Office, customer_id: str, **more: Any) -> Awaitable[Any]:
    wish = asked(customer_id=customer_id, mode=1, plan={"plan_key": "team"}, **more)
    call: Awaitable[Any] = office.CreateGrant(grant_pb2.CreateGrantRequest(**wish))
    return call


def erase(office: Office, customer_id: str) -> Awaitable[Any]:
    call: Awaitable[Any] = office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id=customer_id)))
    return call


def of_customer(world: World, customer_id: str) -> tuple[set[str], dict[str, Any], int, list[int]]:
    """Give the subscriptions that the bindings say are theirs, their facts, their revision, and those of the log."""
    objects = world.sql(
        "SELECT object_id FROM stripe_objects JOIN stripe_customers USING (stripe_customer_id)"  # noqa: S608 - of this test, here and below
        f" WHERE kind = 'subscription' AND customer_id = '{customer_id}'"
    )
    ((facts, revision),) = world.sql(f"SELECT facts, revision FROM customers WHERE customer_id = '{customer_id}'")  # noqa: S608
    logged = world.sql(
        f"SELECT revision FROM entitlement_changes WHERE customer_id = '{customer_id}' ORDER BY position"  # noqa: S608
    )
    return {row[0] for row in objects}, facts, revision, [row[0] for row in logged]


@pytest.mark.parametrize("seed", range(2))
async def test_links_grants_erasings_and_events_at_once_lose_nothing_and_contradict_nothing(
    office: Office, seed: int
) -> None:
    """What is theirs goes by the bindings that stand; one request id is one grant; the log has every revision once, in order."""
    world, random = office.world, Random(seed)
    await office.bought(*NAMES)
    bound = [row[0] for row in world.sql("SELECT stripe_customer_id FROM stripe_customers ORDER BY 1")]
    bodies = await world.events("customer.subscription.created", "invoice.paid", "checkout.session.completed")
    works: list[Work] = []
    for number in range(ROUNDS):
        again = [body.replace(b'"evt_', f'"evt_{number}_'.encode()) for body in bodies]
        works += [
            partial(link, office, random.choice(bound), random.choice(NAMES)),
            partial(grant, office, random.choice(NAMES)),
            partial(grant, office, "ann", request_id="one-and-the-same"),
            partial(erase, office, random.choice(NAMES)),
            partial(world.fulfill, random.sample(again, len(again))),
        ]
    random.shuffle(works)
    await asyncio.gather(*(work() for work in works))
    given = [row[0] for row in world.sql("SELECT grant_id FROM grants")]
    assert len(given) == ROUNDS + 1
    revocations = [grant_pb2.RevokeGrantRequest(**asked(grant_id=one)) for one in given for _ in range(2)]
    await asyncio.gather(*(office.RevokeGrant(one) for one in revocations))
    for name in NAMES:
        theirs, facts, revision, logged = of_customer(world, name)
        assert {one["subscription_id"] for one in facts.get("subscriptions", ())} == theirs
        assert not facts.get("grants")
        assert logged == list(range(logged[0], revision + 1))
