"""Operators have a customer's personal data erased, over the wire."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import psycopg
import pytest
from billing.admin.v1 import (
    customer_pb2,
    event_pb2,
    finding_pb2,
    grant_pb2,
)

from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.errors import StripeUnavailableError
from billing_service.flows import erase_customer
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.storage import bodies, erasures
from tests.integration.flows.test_refresh import World
from tests.integration.rpc.office import BOUND_S, Office, asked
from tests.stripe_proxy import Fault, lose_answer, lose_request


@pytest.fixture(autouse=True)
def _time_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an erasing be done with its answer, however busy the machine is; a test that wants less says so."""
    monkeypatch.setattr(erase_customer, "ANSWER_S", BOUND_S / 2)


def events_with(world: World, text: str, table: str = "stripe_events") -> list[str]:
    """Give the events whose body has a text in it."""
    key = "event_id" if table == "stripe_events" else "event_key"
    rows = world.sql(f"SELECT {key}, payload FROM {table} ORDER BY {key}")  # noqa: S608 - of this test
    return [name for name, payload in rows if text.encode() in bodies.unpacked(payload)]


def columns_with(world: World, text: str) -> set[tuple[str, str]]:
    """Give every column of the database, of any type, in which a text stands."""
    columns = world.sql("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'")
    found = set()
    with psycopg.connect(world.database_url) as connection:
        for table, column in columns:
            for (value,) in connection.execute(f'SELECT "{column}" FROM "{table}"'):  # noqa: S608 - of this test
                if text in str(bodies.unpacked(value) if isinstance(value, bytes) else value):
                    found.add((table, column))
    return found


def checkout(world: World) -> CreateCheckoutSession:
    """Give the flow that makes pages to pay on."""
    return CreateCheckoutSession(
        world.database, world.stripe, world.prices, world.reads, "default", lambda: datetime.now(UTC)
    )


def wish(request_id: str, plan_key: str, customer_id: str = "ann") -> CheckoutRequest:
    """Ask for a page, with a name and an address wherever a caller may put one."""
    return CheckoutRequest(
        request_id=request_id, customer_id=customer_id, plan_key=plan_key, price_key=None, quantity=1,
        success_url="https://shop.example/done?for=smith@example.com", cancel_url="https://shop.example/?name=Smithers",
        customer_email="smith@example.com", allow_promotion_codes=False, metadata={"name": "Smithers"},
    )  # fmt: skip


async def erased(office: Office, customer_id: str = "ann") -> None:
    """Erase, and see it done."""
    done = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id=customer_id)))).erasure
    assert done.state == customer_pb2.Erasure.STATE_DONE


async def gone_on(office: Office) -> None:
    """Have the service go on with what was begun, until it is done."""
    going_on = asyncio.create_task(office.erase.run())
    async with asyncio.timeout(BOUND_S):
        while office.world.sql("SELECT 1 FROM erasures WHERE done_time IS NULL OR walked_until_time < until_time"):  # noqa: ASYNC110 - the task's own
            await asyncio.sleep(0.05)
    going_on.cancel()
    await asyncio.wait({going_on})


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
    bens = events_with(world, "ben")
    done = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    assert (done.state, done.quarantined_events, done.stripe_customer_body) == (
        customer_pb2.Erasure.STATE_DONE,
        1,
        True,
    )
    assert (done.event_bodies > 3, done.reasons) == (True, 2)
    for table in ("stripe_events", "quarantined_events"):
        assert events_with(world, cus, table) == events_with(world, '"ann"', table) == []
    assert events_with(world, "ben") == bens != []
    after = await office.customer("ann")
    assert (after.entitlements.plan_keys, after.entitlements.revision) == (
        before.entitlements.plan_keys, before.entitlements.revision,
    )  # fmt: skip
    assert (list(after.stripe_bindings), after.HasField("erase_time")) == (list(before.stripe_bindings), True)
    assert {row[0] for row in world.sql("SELECT reason FROM grants")} == {""}
    left = world.sql("SELECT octet_length(i.fingerprint), octet_length(r.fingerprint) FROM checkout_intents i"
                     " JOIN checkout_requests r USING (intent_id) WHERE customer_id = 'ann'")  # fmt: skip
    assert all(one == (0, 0) for one in left)
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
    await gone_on(office)
    for name, some in (("ann", False), ("ben", True)):
        cus = world.sql(f"SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = '{name}'")[0][0]  # noqa: S608 - of this test
        assert bool(events_with(world, cus)) is some


@pytest.mark.parametrize("erased_before", [False, True])
async def test_what_an_older_release_ended_beside_this_one_is_walked_through_again(
    office: Office, *, erased_before: bool
) -> None:
    """It finds nobody in a compressed body. Until this release has looked that far, the erasing is not done."""
    world = office.world
    await office.bought("ann")
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    erase = customer_pb2.EraseCustomerRequest(**asked(customer_id="ann"))
    if erased_before:
        assert (await office.EraseCustomer(erase)).erasure.state == customer_pb2.Erasure.STATE_DONE
    later = {"id": "evt_later", "object": "event", "type": "payment_method.attached", "created": 1, "livemode": False,
             "data": {"object": {"id": "pm_1", "object": "payment_method", "customer": cus}}}  # fmt: skip
    await world.fulfill([json.dumps(later).encode()])
    # As the release before begins, walks through and ends one.
    world.sql(
        "INSERT INTO erasures (customer_id, request_time, until_time, looked_time, looked_event_id, stripe_customer_body, done_time)"
        " VALUES ('ann', now(), now(), now(), '~', false, now()) ON CONFLICT (customer_id) DO UPDATE SET"
        " request_time = now(), until_time = now(), looked_time = now(), looked_event_id = '~', done_time = now()"
    )
    assert events_with(world, cus)
    await gone_on(office)
    assert events_with(world, cus) == []


async def test_no_reason_is_left_that_may_name_the_customer_nor_what_it_could_be_guessed_from(office: Office) -> None:
    """Of what was asked about them, and of what was asked about nobody in particular; who asked, for what and when stays."""
    world = office.world
    await office.bought("ann", "ben")
    world.sql(
        "INSERT INTO findings (kind, subject, customer_id, detail) VALUES ('drift', 'sub_a', 'ann', '{\"a\": 1}')"
    )
    world.sql("INSERT INTO findings (kind, subject, detail) VALUES ('denied_by_stripe', 'sub_x', '{}')")
    spoken = {"reason": "Ann Smith, 1 Main Street, called"}
    tied = finding_pb2.CloseFindingRequest(**asked(kind=finding_pb2.Finding.KIND_DRIFT, subject="sub_a", **spoken))
    await office.CloseFinding(tied)
    await office.CloseFinding(
        finding_pb2.CloseFindingRequest(
            **asked(kind=finding_pb2.Finding.KIND_DENIED_BY_STRIPE, subject="sub_x", **spoken)
        )
    )
    malformed = event_pb2.QuarantinedEvent.REASON_MALFORMED
    await office.ReplayEvents(event_pb2.ReplayEventsRequest(**asked(quarantine_reason=malformed, **spoken)))
    await office.CreateGrant(
        grant_pb2.CreateGrantRequest(**asked(customer_id="ben", mode=1, plan={"plan_key": "team"}, reason="Ben asked"))
    )
    before = (
        "UPDATE operator_requests SET answer = answer || '{\"detail\": {\"a\": 1}}' WHERE operation = 'close_finding'"
    )
    world.sql(before)  # as an older release kept it
    done = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    assert (done.state, done.reasons) == (customer_pb2.Erasure.STATE_DONE, 3)
    rows = world.sql(
        "SELECT operation, reason, octet_length(fingerprint), actor, answer FROM operator_requests ORDER BY create_time"
    )
    assert [row[:4] for row in rows] == [
        ("close_finding", "", 0, "eve@ops.example"),
        ("close_finding", "", 0, "eve@ops.example"),
        ("replay_events", "", 0, "eve@ops.example"),
        ("create_grant", "Ben asked", 32, "eve@ops.example"),
        ("erase_customer", "ticket 7", 32, "eve@ops.example"),
    ]
    assert rows[0][4] == {"kind": "drift", "subject": "sub_a"}
    assert await office.refused(office.CloseFinding(tied)) == "REQUEST_ID_REUSED"


async def test_every_object_of_a_customer_is_gone_through_however_many_there_are(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are looked at in one round, and more bodies of them than are emptied in one batch; also in quarantine, discarded ones too."""
    monkeypatch.setattr(erase_customer, "OBJECTS_AT_ONCE", 3)
    monkeypatch.setattr(erasures, "LOOKED_AT", 2)
    world = office.world
    await office.bought("ann", "ben")
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    world.sql(
        "INSERT INTO stripe_objects (object_id, kind, stripe_customer_id, payload_terminal, payload_created, payload_rank,"  # noqa: S608 - of this test
        " payload_event_id, payload_receipt, payload_view) SELECT 'in_' || n, 'invoice',"
        f" '{cus}', false, 1, 1, 'evt', n, '{{}}' FROM generate_series(1, 11) AS n"
    )
    world.sql(  # none of them names the customer
        "INSERT INTO stripe_events (event_id, type, created, object_id, livemode, outcome, payload)"
        " SELECT 'evt_o' || n, 'invoice.paid', 1, 'in_' || n, false, 'applied', 'a name' FROM generate_series(1, 11) AS n"
    )
    world.sql(
        "INSERT INTO quarantined_events (event_key, payload, reason, detail, discard_time)"
        " SELECT 'q' || n, convert_to('{\"broken\": \"in_' || n || '\"', 'UTF8'), 'malformed', '', CASE WHEN n % 2 = 0 THEN now() END"
        " FROM generate_series(1, 15) AS n"
    )
    done = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
    assert (done.state, done.quarantined_events) == (customer_pb2.Erasure.STATE_DONE, 11)
    assert world.sql("SELECT count(*) FROM stripe_events WHERE payload = 'a name'") == [(0,)]
    assert world.sql("SELECT count(*) FROM quarantined_events") == [(4,)]


async def test_a_body_that_is_being_recorded_while_the_erasing_begins_is_not_missed(
    office: Office, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is before the end of the walk, and it is seen only once its transaction has ended: nothing is done before that."""
    world = office.world
    await office.bought("ann")
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    with psycopg.connect(database_url) as writer:
        writer.execute(
            "INSERT INTO stripe_events (event_id, type, created, object_id, livemode, outcome, payload)"
            " VALUES ('evt_edge', 'payment_method.attached', 1, 'pm_1', false, 'ignored', %s)",
            [json.dumps({"customer": cus}).encode()],
        )
        after = {"id": "evt_after", "object": "event", "type": "payment_method.attached", "created": 1, "livemode": False,
                 "data": {"object": {"id": "pm_2", "object": "payment_method", "customer": cus}}}  # fmt: skip
        # There, and behind the other's place: no walk may pass that yet.
        await world.fulfill([json.dumps(after).encode()])
        monkeypatch.setattr(erase_customer, "ANSWER_S", 2.0)  # longer than it would take without the writer
        begun = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
        assert begun.state == customer_pb2.Erasure.STATE_RUNNING
    monkeypatch.setattr(erase_customer, "RUNNING_INTERVAL_S", 0.05)
    await gone_on(office)
    assert world.sql("SELECT octet_length(payload) FROM stripe_events WHERE event_id = 'evt_edge'") == [(0,)]


async def test_no_column_of_any_table_keeps_a_name_or_an_address_nor_is_it_brought_back(office: Office) -> None:
    """Bought, refunded, begun and left open, with every event of it, used or not, and all of them again under other ids afterwards."""
    world, buy = office.world, checkout(office.world)
    made = [(await buy(wish(f"r-{plan_key}", plan_key))).session for plan_key in ("pro", "export_pass")]
    for one in made:
        await world.call("POST", f"/_control/checkout/sessions/{one.checkout_session_id}/complete", outcome="paid")
    payment = (await world.call("GET", f"/v1/checkout/sessions/{made[-1].checkout_session_id}"))["payment_intent"]
    await world.call("POST", "/_control/refunds", payment_intent=payment)
    await world.fulfill(await world.events())
    opened = (await buy(wish("r-again", "export_pass"))).session.checkout_session_id
    grant = {"customer_id": "ann", "mode": 1, "plan": {"plan_key": "team"}, "reason": "Smithers, smith@example.com"}
    await office.CreateGrant(grant_pb2.CreateGrantRequest(**asked(**grant)))
    assert len(columns_with(world, "Smithers")) > 3
    assert ("customers", "stripe_customer_request") in columns_with(world, "smith@example.com")
    await erased(office)
    await world.call("POST", f"/v1/checkout/sessions/{opened}/expire")
    again = [body.replace(b'"evt_', b'"evt_again_') for body in await world.events()]
    await world.fulfill([*await world.events(), *again])
    await world.serve_all()
    await office.erase.later()
    assert columns_with(world, "Smithers") == columns_with(world, "smith@example.com") == set()


@pytest.mark.parametrize(("age", "is_kept"), [("22 hours", True), ("24 hours", False)])
async def test_a_checkout_that_was_begun_and_left_is_emptied_once_nobody_may_go_on_with_it(
    office: Office, age: str, *, is_kept: bool
) -> None:
    world, buy = office.world, checkout(office.world)
    world.proxy.next("POST", "/v1/checkout/sessions", lose_request)
    with pytest.raises(StripeUnavailableError):
        await buy(wish("r-1", "pro"))
    await erased(office)
    world.sql(f"UPDATE checkout_intents SET create_time = now() - interval '{age}'")  # noqa: S608 - of this test
    await office.erase.later()
    assert bool(columns_with(world, "Smithers")) is is_kept
    assert world.sql("SELECT octet_length(fingerprint) FROM checkout_requests") == [(32 if is_kept else 0,)]


async def test_an_address_that_comes_with_a_later_purchase_is_emptied_too(office: Office) -> None:
    """Their Stripe customer was deleted, and a new one is made with it."""
    world, buy = office.world, checkout(office.world)
    await buy(wish("r-1", "pro"))
    await erased(office)
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers")[0][0]
    await world.call("DELETE", f"/v1/customers/{cus}")
    await world.fulfill(await world.events("customer.deleted"))
    await buy(wish("r-2", "pro"))
    assert ("customers", "stripe_customer_request") in columns_with(world, "smith@example.com")
    await office.erase.later()
    assert ("customers", "stripe_customer_request") not in columns_with(world, "smith@example.com")


@pytest.mark.parametrize("fault", [lose_request, lose_answer])
async def test_who_is_erased_while_they_are_made_known_to_stripe_can_go_on_buying(office: Office, fault: Fault) -> None:
    """The same key does not make the same customer without the address; that is not for the caller to know."""
    world, buy = office.world, checkout(office.world)
    world.proxy.next("POST", "/v1/customers", fault)
    with pytest.raises(StripeUnavailableError):
        await buy(wish("r-1", "pro"))
    await erased(office)
    tries = 2 if fault is lose_answer else 1
    for _ in range(tries - 1):
        with pytest.raises(StripeUnavailableError):
            await buy(wish("r-1", "pro"))
    assert (await buy(wish("r-1", "pro"))).session.url
