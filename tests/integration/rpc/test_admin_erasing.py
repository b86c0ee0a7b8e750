"""Operators have a customer's personal data erased, over the wire."""

from __future__ import annotations

import asyncio
import json

import pytest
from billing.admin.v1 import (
    customer_pb2,
    grant_pb2,
)

from billing_service.flows import erase_customer
from billing_service.storage import erasures
from tests.integration.rpc.office import BOUND_S, Office, asked


async def test_erasing_takes_out_what_names_the_customer_and_leaves_what_was_paid_for(office: Office) -> None:
    world = office.world
    await office.bought("ann", "ben")
    grant = {"customer_id": "ann", "mode": 1, "plan": {"plan_key": "team"}, "reason": "Ann asked"}
    await office.CreateGrant(grant_pb2.CreateGrantRequest(**asked(**grant)))
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    attached = {"id": "evt_pm", "object": "event", "type": "payment_method.attached", "created": 1, "livemode": False,
                "data": {"object": {"id": "pm_1", "object": "payment_method", "customer": cus}}}  # fmt: skip
    await world.fulfill([json.dumps(attached).encode(), json.dumps({"broken": cus}).encode()])
    world.sql(
        "UPDATE customers SET stripe_customer_key = gen_random_uuid(), stripe_customer_request ="  # noqa: S608 - of this test
        f" '{{\"email\": \"ann@example.com\"}}', stripe_customer_id = '{cus}' WHERE customer_id = 'ann'"
    )
    before = await office.customer("ann")
    bens = world.sql("SELECT count(*) FROM stripe_events WHERE position('ben' IN convert_from(payload, 'UTF8')) > 0")
    done = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    assert (done.state, done.quarantined_events, done.stripe_customer_body) == (
        customer_pb2.Erasure.STATE_DONE,
        1,
        True,
    )
    assert (done.event_bodies > 3, done.reasons) == (True, 2)
    text = "convert_from(payload, 'UTF8')"
    named = f"position('{cus}' IN {text}) > 0 OR position('\"ann\"' IN {text}) > 0"
    for table in ("stripe_events", "quarantined_events"):
        assert world.sql(f"SELECT count(*) FROM {table} WHERE {named}") == [(0,)]  # noqa: S608 - of this test
    assert (
        world.sql("SELECT count(*) FROM stripe_events WHERE position('ben' IN convert_from(payload, 'UTF8')) > 0")
        == bens
    )
    after = await office.customer("ann")
    assert (after.entitlements.plan_keys, after.entitlements.revision) == (
        before.entitlements.plan_keys, before.entitlements.revision,
    )  # fmt: skip
    assert (list(after.stripe_bindings), after.HasField("erase_time")) == (list(before.stripe_bindings), True)
    assert {row[0] for row in world.sql("SELECT reason FROM grants")} == {""}
    assert "ann@example.com" not in str(world.sql("SELECT stripe_customer_request FROM customers"))


async def test_what_comes_after_an_erasure_is_emptied_too_and_asking_again_counts_on(office: Office) -> None:
    world = office.world
    await office.bought("ann")
    first = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    left = "SELECT count(*) FROM stripe_events WHERE octet_length(payload) > 0 AND object_id LIKE 'sub%'"
    later = [body.replace(b'"evt_', b'"evt_later_') for body in await world.events("customer.subscription.created")]
    await world.fulfill(later)
    assert world.sql(left) == [(1,)]
    await office.erase.later()
    assert world.sql(left) == [(0,)]
    again = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    assert (again.state, again.event_bodies) == (customer_pb2.Erasure.STATE_DONE, first.event_bodies + 1)
    missing = customer_pb2.EraseCustomerRequest(**asked(customer_id="nobody"))
    assert await office.refused(office.EraseCustomer(missing)) == "CUSTOMER_NOT_FOUND"


async def test_an_erasing_that_is_not_done_with_the_answer_goes_on_in_the_service(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase_customer, "ANSWER_S", 0.0)
    monkeypatch.setattr(erasures, "LOOKED_AT", 2)
    world = office.world
    await office.bought("ann", "ben")
    begun = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    assert begun.state == customer_pb2.Erasure.STATE_RUNNING
    going_on = asyncio.create_task(office.erase.run())
    async with asyncio.timeout(BOUND_S):
        while world.sql("SELECT 1 FROM erasures WHERE done_time IS NULL"):  # noqa: ASYNC110 - the task's own
            await asyncio.sleep(0.05)
    going_on.cancel()
    await asyncio.wait({going_on})
    for name, some in (("ann", False), ("ben", True)):
        cus = world.sql(f"SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = '{name}'")[0][0]  # noqa: S608 - of this test
        named = f"position('{cus}' IN convert_from(payload, 'UTF8')) > 0"
        assert world.sql(f"SELECT count(*) > 0 FROM stripe_events WHERE {named}") == [(some,)]  # noqa: S608 - likewise
