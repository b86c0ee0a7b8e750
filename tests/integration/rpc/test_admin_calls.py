"""What operators ask for, over the wire: a real listener, a real database, and the stand-in at Stripe's end."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from billing.admin.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    customer_pb2,
    event_pb2,
    finding_pb2,
    grant_pb2,
    reconcile_pb2,
)
from billing.v1 import entitlement_pb2, watch_pb2
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from billing_service.access import Credentials, Identity, Role
from billing_service.domain.checkout import CheckoutRequest
from billing_service.flows import erase_customer
from billing_service.flows.change_grants import ChangeGrants
from billing_service.flows.close_finding import CloseFinding
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.describe_customer import DescribeCustomer
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
from billing_service.rpc.roles import declared_roles
from billing_service.rpc.server import ADMIN_SERVICE, internal_listener, public_listener
from billing_service.storage import erasures
from billing_service.storage import events as event_rows
from tests.integration.flows.test_refresh import PLENTY, World, world  # noqa: F401 - the fixture
from tests.integration.rpc.wire import Fulfills, error_info, listening
from tests.stripe_proxy import fail, held
from tests.unserved import Unserved

METHODS = [method.name for method in ADMIN_SERVICE.methods]
BOUND_S = 30  # for anything that a test waits for; far beyond what it takes
_numbers = itertools.count(1)
_Finding = finding_pb2.Finding
_Run = reconcile_pb2.ReconcileRun


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


def flows(world: World, erase: EraseCustomer) -> AdminFlows:  # noqa: F811 - the world of the test
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
        reconcile=ReconcileOnRequest(database, events, objects, now),
        close_finding=CloseFinding(database),
        erase_customer=erase,
    )


@pytest.fixture
async def office(world: World) -> AsyncIterator[Office]:  # noqa: F811 - a fixture takes a fixture
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


# --- Who may ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_only_an_admin_may_call_a_method(office: Office, method: str) -> None:
    call = getattr(admin_service_pb2_grpc.AdminServiceStub(office.channel), method)
    for shown, code in (
        (None, grpc.StatusCode.UNAUTHENTICATED), ("of-nobody", grpc.StatusCode.UNAUTHENTICATED),
        ("of-an-caller", grpc.StatusCode.PERMISSION_DENIED), ("of-an-gateway", grpc.StatusCode.PERMISSION_DENIED),
    ):  # fmt: skip
        metadata = () if shown is None else (("authorization", f"Bearer {shown}"),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read(call(request_of(method), metadata=metadata, timeout=BOUND_S))
        assert refused.value.code() is code


async def test_the_public_listener_does_not_serve_operators() -> None:
    async with listening(public_listener(Unserved())) as wire:
        stub = admin_service_pb2_grpc.AdminServiceStub(wire.channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetCustomer(customer_pb2.GetCustomerRequest(customer_id="ann"))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("List")])
async def test_an_empty_request_is_told_every_field_that_it_lacks(office: Office, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(getattr(office, method)(request_of(method)))
    assert error_info(refused.value).reason == "INVALID_FIELDS"
    names = {field.name for field in request_of(method).DESCRIPTOR.fields} & {"request_id", "actor", "reason"}
    assert all(name in (refused.value.details() or "") for name in names)


BAD: Iterable[Message] = (
    customer_pb2.GetCustomerRequest(customer_id=" ann"),
    customer_pb2.ListEntitlementChangesRequest(customer_id="ann", page_size=101),
    event_pb2.ListEventsRequest(page_size=501),
    event_pb2.ListEventsRequest(page_token="made up"),
    event_pb2.ListEventsRequest(outcome=99),  # type: ignore[arg-type] # as an older client would
    event_pb2.ListQuarantinedEventsRequest(page_size=-1),
    event_pb2.ReplayEventsRequest(**asked(quarantine_reason=99)),
    grant_pb2.ListGrantsRequest(page_token="AAAA"),
    grant_pb2.RevokeGrantRequest(**asked(grant_id="grant_1")),
    grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1)),
    grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, plan={"plan_key": "pro", "quantity": 0})),
    grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, feature={"feature_key": "seats"})),
    grant_pb2.CreateGrantRequest(
        **asked(customer_id="ann", mode=1, feature={"feature_key": "seats", "value": {"integer_value": -1}})
    ),
    customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ann", stripe_customer_id="ann@example.com")),
    finding_pb2.CloseFindingRequest(**asked(kind=99, subject="x")),
    reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_CUSTOMER)),
    reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVENTS, customer_id="ann")),
    reconcile_pb2.ListReconcileRunsRequest(scope=_Run.SCOPE_EVERYTHING),
)


@pytest.mark.parametrize("request_", BAD, ids=lambda one: type(one).__name__)
async def test_a_field_that_breaks_a_rule_is_refused(office: Office, request_: Message) -> None:
    method = type(request_).__name__.removesuffix("Request")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(getattr(office, method)(request_))
    assert error_info(refused.value).reason == "INVALID_FIELDS"


# --- Customers, grants --------------------------------------------------------------------------------------------------


async def test_a_customer_is_told_with_why_they_have_what_they_have(office: Office) -> None:
    await office.bought("ann")
    await office.world.buy("ann", "export_pass", "payment")
    await office.world.fulfill(await office.world.events())
    feature = {"feature_key": "seats", "value": {"unlimited": True}}
    made = await office.CreateGrant(grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=2, feature=feature)))
    ann = await office.customer("ann")
    facts = {one.WhichOneof("facts") for one in ann.explanations}
    assert (facts, len(ann.explanations)) == ({"grant", "purchase", "subscription_item"}, 3)
    item = next(one for one in ann.explanations if one.WhichOneof("facts") == "subscription_item")
    assert (item.subscription_item.status, item.ruling) == ("active", customer_pb2.RULING_PERIOD)
    assert (item.policy.past_due_grace.seconds, item.source.plan_key) == (7 * 86_400, "pro")
    grant = next(one for one in ann.explanations if one.WhichOneof("facts") == "grant")
    assert (grant.grant, grant.grant.reason) == (made.grant, "ticket 7")
    assert (ann.entitlements.revision, made.revision) == (made.revision, made.revision)
    assert len(ann.stripe_bindings) == 2
    seats = next(one for one in ann.entitlements.entitlements if one.feature_key == "seats")
    assert (seats.value.unlimited, seats.source.type, seats.source.grant_id, seats.source.override) == (
        True, entitlement_pb2.Source.TYPE_GRANT, made.grant.grant_id, True,
    )  # fmt: skip


async def test_a_customer_of_whom_nothing_is_known_is_no_error(office: Office) -> None:
    nobody = await office.customer("nobody")
    assert (list(nobody.entitlements.plan_keys), nobody.entitlements.revision) == (["free"], 0)
    assert not nobody.HasField("create_time")


async def test_what_is_begun_and_not_finished_is_told(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
    buy = CreateCheckoutSession(world.database, world.stripe, world.prices, world.reads, "default", now)
    wanted = CheckoutRequest(
        request_id="buy-1", customer_id="ann", plan_key="pro", price_key=None, quantity=1,
        success_url="https://shop.example/", cancel_url="https://shop.example/", customer_email=None,
        allow_promotion_codes=False, metadata={},
    )  # fmt: skip
    session = (await buy(wanted)).session.checkout_session_id
    intents = (await office.customer("ann")).open_intents
    assert [(one.state, one.plan_key, one.checkout_session_id) for one in intents] == [("open", "pro", session)]


async def test_the_changes_of_a_customer_are_told_before_and_after_a_page_at_a_time(office: Office) -> None:
    await office.bought("ann")
    made = await office.CreateGrant(
        grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, plan={"plan_key": "team", "quantity": 2}))
    )
    await office.RevokeGrant(grant_pb2.RevokeGrantRequest(**asked(grant_id=made.grant.grant_id)))
    found: list[customer_pb2.EntitlementChange] = []
    token = ""
    for _ in range(10):
        page = await office.ListEntitlementChanges(
            customer_pb2.ListEntitlementChangesRequest(customer_id="ann", page_size=1, page_token=token)
        )
        found += page.changes
        token = page.next_page_token
        if not token:
            break
    revisions = [change.revision for change in found]
    assert revisions == list(range(made.revision + 1, 0, -1))
    ended, given = found[:2]
    assert (given.cause, given.cause_id) == (watch_pb2.WatchEntitlementsResponse.CAUSE_GRANT, made.grant.grant_id)
    assert (list(given.before.plan_keys), list(given.after.plan_keys)) == (["pro"], ["team", "pro"])
    assert list(ended.after.plan_keys) == ["pro"]
    assert (ended.before.revision, ended.after.revision) == (made.revision, made.revision + 1)
    other = customer_pb2.ListEntitlementChangesRequest(customer_id="ben", page_size=1)
    other.page_token = (
        await office.ListEntitlementChanges(customer_pb2.ListEntitlementChangesRequest(customer_id="ann", page_size=1))
    ).next_page_token
    assert await office.refused(office.ListEntitlementChanges(other)) == "INVALID_FIELDS"


async def test_a_mutation_that_is_repeated_gets_its_answer_and_with_other_parameters_is_refused(office: Office) -> None:
    await office.bought("ann")
    office.world.sql("INSERT INTO findings (kind, subject, detail) VALUES ('drift', 'sub_1', '{\"a\": 1}')")
    cus = (await office.world.call("POST", "/v1/customers"))["id"]
    requests: list[Any] = [
        grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, plan={"plan_key": "team"})),
        customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ann", stripe_customer_id=cus)),
        finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="sub_1")),
        event_pb2.ReplayEventsRequest(**asked(quarantine_reason=event_pb2.QuarantinedEvent.REASON_MALFORMED)),
        customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")),
    ]
    for request in requests:
        call = getattr(office, type(request).__name__.removesuffix("Request"))
        first = await call(request)
        assert await call(request) == first
        request.reason = "another"
        assert await office.refused(call(request)) == "REQUEST_ID_REUSED"
    recorded = office.world.sql("SELECT operation, actor FROM operator_requests ORDER BY create_time")
    assert [row[0] for row in recorded] == [
        "create_grant", "link_stripe_customer", "close_finding", "replay_events", "erase_customer",
    ]  # fmt: skip
    assert {row[1] for row in recorded} == {"eve@ops.example"}


async def test_who_asked_is_kept_by_what_they_showed_beside_what_they_said(office: Office) -> None:
    """Nobody passes for another by a word. The log line of the call names them and the request, and neither actor nor reason."""
    with capture_logs(processors=[merge_contextvars]) as lines:
        wish = grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, plan={"plan_key": "pro"}))
        made = (await office.CreateGrant(wish)).grant
        end = grant_pb2.RevokeGrantRequest(**asked(grant_id=made.grant_id) | {"request_id": "eve@ops.example"})
        await office.RevokeGrant(end)
    (found,) = (await office.ListGrants(grant_pb2.ListGrantsRequest(include_ended=True))).grants
    assert (made.actor, made.identity, made.revoke_identity) == ("eve@ops.example", "admin", "")
    assert (found.identity, found.revoke_actor, found.revoke_identity) == ("admin", "eve@ops.example", "admin")
    assert office.world.sql("SELECT DISTINCT actor, identity FROM operator_requests") == [("eve@ops.example", "admin")]
    calls = [line for line in lines if line["event"] == "call" and "Grant" in line["method"]]
    assert [(one["caller"], one.get("request_id")) for one in calls[:2]] == [
        ("admin", wish.request_id),
        ("admin", None),
    ]
    assert "eve@" not in str(lines)
    assert "ticket" not in str(lines)


async def test_grants_are_listed_a_page_at_a_time_the_newest_first(office: Office) -> None:
    made = []
    for name in ("ann", "ben", "ann"):
        wish = grant_pb2.CreateGrantRequest(**asked(customer_id=name, mode=1, plan={"plan_key": "pro"}))
        made.append((await office.CreateGrant(wish)).grant)
    await office.RevokeGrant(grant_pb2.RevokeGrantRequest(**asked(grant_id=made[0].grant_id)))
    ask = grant_pb2.ListGrantsRequest(include_ended=True, page_size=2)
    first = await office.ListGrants(ask)
    ask.page_token = first.next_page_token
    second = await office.ListGrants(ask)
    listed = [grant.grant_id for grant in (*first.grants, *second.grants)]
    assert (listed, second.next_page_token) == ([grant.grant_id for grant in made[::-1]], "")
    anns = await office.ListGrants(grant_pb2.ListGrantsRequest(customer_id="ann"))
    assert [grant.grant_id for grant in anns.grants] == [made[2].grant_id]
    missing = grant_pb2.RevokeGrantRequest(**asked(grant_id="grant_" + "0" * 32))
    assert await office.refused(office.RevokeGrant(missing)) == "GRANT_NOT_FOUND"


# --- Links --------------------------------------------------------------------------------------------------------------


async def test_what_was_parked_takes_effect_with_the_link_that_names_its_customer(office: Office) -> None:
    """Nobody's metadata says whose it is, until an operator does."""
    world = office.world  # noqa: F811 - the same
    await world.buy("ann")
    bodies = [body.replace(b"billing_customer_id", b"somebody") for body in await world.events()]
    await world.fulfill(bodies)
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers")[0][0]
    await world.call("POST", f"/v1/customers/{cus}", **{"metadata[billing_customer_id]": ""})
    link = customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ben", stripe_customer_id=cus))
    linked = await office.LinkStripeCustomer(link)
    ben = await office.customer("ben")
    assert (list(ben.entitlements.plan_keys), ben.entitlements.revision) == (["pro"], linked.revision)
    assert (linked.stripe_binding.current, list(ben.stripe_bindings)) == (True, [linked.stripe_binding])


async def test_a_binding_that_is_contradicted_is_refused_until_it_is_to_be_replaced(office: Office) -> None:
    await office.bought("ann")
    world = office.world  # noqa: F811 - the same
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    link = customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ben", stripe_customer_id=cus))
    assert await office.refused(office.LinkStripeCustomer(link)) == "BINDING_CONTRADICTED"
    link.replace = True
    linked = await office.LinkStripeCustomer(link)
    assert linked.replaced_customer_id == "ann"
    people = [await office.customer(name) for name in ("ann", "ben")]
    assert [list(one.entitlements.plan_keys) for one in people] == [["free"], ["pro"]]
    await world.fulfill([body.replace(b'"evt_', b'"evt_again_') for body in await world.events()])
    assert list((await office.customer("ben")).entitlements.plan_keys) == ["pro"]
    found = await office.ListFindings(finding_pb2.ListFindingsRequest())  # what its metadata says was decided
    assert not [one for one in found.findings if one.kind == _Finding.KIND_BINDING_CONTRADICTED]


async def test_what_stripe_does_not_have_or_another_deployment_made_is_not_bound(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
    link = customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ann", stripe_customer_id="cus_gone"))
    assert await office.refused(office.LinkStripeCustomer(link)) == "STRIPE_CUSTOMER_NOT_FOUND"
    other = await world.call("POST", "/v1/customers", **{"metadata[billing_deployment]": "elsewhere"})
    link = customer_pb2.LinkStripeCustomerRequest(
        **asked(customer_id="ann", stripe_customer_id=other["id"], replace=True)
    )
    assert await office.refused(office.LinkStripeCustomer(link)) == "BINDING_CONTRADICTED"
    world.proxy.next("GET", f"/v1/customers/{other['id']}", fail)
    assert await office.refused(office.LinkStripeCustomer(link)) == "STRIPE_UNAVAILABLE"
    assert world.sql("SELECT 1 FROM operator_requests") == []


# --- Events -------------------------------------------------------------------------------------------------------------


async def every_event(office: Office, **filters: Any) -> list[event_pb2.Event]:
    """Give every event of a list, page after page."""
    found: list[event_pb2.Event] = []
    ask = event_pb2.ListEventsRequest(page_size=3, **filters)
    for _ in range(200):
        page = await office.ListEvents(ask)
        assert len(page.events) <= 3
        found += page.events
        ask.page_token = page.next_page_token
        if not page.next_page_token:
            return found
    raise AssertionError("pages without end")


async def test_events_are_listed_by_what_they_are_about(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a call looks at fewer events than there are between two that match."""
    monkeypatch.setattr(event_rows, "LOOKED_AT", 4)
    await office.bought("ann", "ben")
    world = office.world  # noqa: F811 - the same
    recorded = {row[0] for row in world.sql("SELECT event_id FROM stripe_events")}
    everything = await every_event(office)
    assert [one.event_id for one in everything] == list(dict.fromkeys(one.event_id for one in everything))
    assert {one.event_id for one in everything} == recorded
    paid = await every_event(office, type="invoice.paid")
    assert len(paid) == 2
    subscription = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription' ORDER BY 1")[0][0]
    assert {one.object_id for one in await every_event(office, object_id=subscription)} == {subscription}
    anns, bens = [{one.event_id for one in await every_event(office, customer_id=name)} for name in ("ann", "ben")]
    assert anns
    assert bens
    assert not anns & bens
    ignored = await every_event(office, outcome=event_pb2.Event.OUTCOME_IGNORED)
    assert {one.outcome for one in ignored} <= {event_pb2.Event.OUTCOME_IGNORED}
    long_ago = datetime.now(UTC) - timedelta(days=1)
    assert await every_event(office, end_time=long_ago) == []
    assert len(await every_event(office, start_time=long_ago)) == len(recorded)


async def test_an_event_is_shown_with_its_body_byte_for_byte_recorded_or_in_quarantine(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
    await office.bought("ann")
    body = (await world.events("invoice.paid"))[0]
    event_id = json.loads(body)["id"]
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=event_id))
    assert (shown.body, shown.event.type, shown.event.body_bytes) == (body, "invoice.paid", len(body))
    await world.fulfill([b"{not json"])
    kept = (await office.ListQuarantinedEvents(event_pb2.ListQuarantinedEventsRequest())).quarantined_events[0]
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=kept.event_key))
    assert (shown.body, shown.quarantined_event) == (b"{not json", kept)
    world.sql(f"UPDATE stripe_events SET payload = '' WHERE event_id = '{event_id}'")  # noqa: S608 - of this test
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=event_id))
    assert (shown.body, shown.event.body_bytes) == (b"", 0)
    missing = event_pb2.GetEventRequest(event_id="evt_gone")
    assert await office.refused(office.GetEvent(missing)) == "EVENT_NOT_FOUND"


async def test_quarantined_events_are_counted_listed_and_replayed_once_the_cause_is_mended(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
    await world.buy("ann")
    bodies = await world.events(
        "checkout.session.completed", "customer.subscription.created", "customer.subscription.updated"
    )
    for body in bodies:  # as an older release would have left them there
        key = json.loads(body)["id"]
        values = f"('{key}', decode('{body.hex()}', 'hex'), 'unwritable', 'a bug')"
        world.sql(f"INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES {values}")  # noqa: S608
    await world.fulfill([b"{not json"])
    page = await office.ListQuarantinedEvents(
        event_pb2.ListQuarantinedEventsRequest(reason=event_pb2.QuarantinedEvent.REASON_UNWRITABLE, page_size=2)
    )
    assert [count.count for count in page.counts] == [1, len(bodies), 0]
    assert (len(page.quarantined_events), bool(page.next_page_token)) == (2, True)
    ask = event_pb2.ReplayEventsRequest(**asked(quarantine_reason=2, page_size=2))
    replayed = applied = 0
    for _ in range(5):
        answer = await office.ReplayEvents(ask)
        replayed, applied = replayed + answer.replayed, applied + answer.applied
        if not answer.next_page_token:
            break
        ask = event_pb2.ReplayEventsRequest(
            **asked(quarantine_reason=2, page_size=2, page_token=answer.next_page_token)
        )
    assert (replayed, applied) == (len(bodies), len(bodies))
    assert list((await office.customer("ann")).entitlements.plan_keys) == ["pro"]
    left = await office.ListQuarantinedEvents(event_pb2.ListQuarantinedEventsRequest())
    key = left.quarantined_events[0].event_key
    again = await office.ReplayEvents(event_pb2.ReplayEventsRequest(**asked(event_key=key)))
    assert (again.replayed, again.failed) == (1, 1)
    gone = event_pb2.ReplayEventsRequest(**asked(event_key="evt_gone"))
    assert await office.refused(office.ReplayEvents(gone)) == "EVENT_NOT_FOUND"


# --- Findings -----------------------------------------------------------------------------------------------------------


async def test_findings_are_listed_by_kind_and_customer_and_closed(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
    for number, (kind, name) in enumerate((("drift", "ann"), ("bought_twice", "ann"), ("drift", "ben"))):
        world.sql(
            "INSERT INTO findings (kind, subject, customer_id, detail, update_time) VALUES"  # noqa: S608 - of this test
            f" ('{kind}', 's{number}', '{name}', '{{\"ids\": [\"sub_1\"], \"n\": 1}}', now() + interval '{number} s')"
        )
    ask = finding_pb2.ListFindingsRequest(page_size=2)
    first = await office.ListFindings(ask)
    ask.page_token = first.next_page_token
    second = await office.ListFindings(ask)
    assert [one.subject for one in (*first.findings, *second.findings)] == ["s2", "s1", "s0"]
    assert dict(first.findings[0].detail)["n"] == 1
    drift = await office.ListFindings(finding_pb2.ListFindingsRequest(kind=_Finding.KIND_DRIFT, customer_id="ann"))
    assert [one.subject for one in drift.findings] == ["s0"]
    close = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="s0"))
    closed = (await office.CloseFinding(close)).finding
    assert closed.HasField("close_time")
    again = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="s0"))
    assert (await office.CloseFinding(again)).finding == closed
    assert [one.subject for one in (await office.customer("ann")).findings] == ["s1"]
    everything = await office.ListFindings(finding_pb2.ListFindingsRequest(include_closed=True))
    assert len(everything.findings) == 3
    other = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="s1"))
    assert await office.refused(office.CloseFinding(other)) == "FINDING_NOT_FOUND"


# --- Reconciling --------------------------------------------------------------------------------------------------------


async def test_reconciling_tells_how_far_it_is_and_what_it_repaired(office: Office) -> None:
    await office.world.buy("ann")
    ask = reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVENTS))
    told = await read(office.Reconcile(ask))
    assert [one.ended for one in told] == [False] * (len(told) - 1) + [True]
    run = told[-1].run
    assert (run.state, run.failed, run.repaired > 0) == (_Run.STATE_COMPLETE, 0, True)
    assert list((await office.customer("ann")).entitlements.plan_keys) == ["pro"]
    assert [one.run for one in await read(office.Reconcile(ask))] == [run]
    shown = (await office.GetReconcileRun(reconcile_pb2.GetReconcileRunRequest(run_id=run.run_id))).run
    assert (shown.state, shown.repaired, shown.HasField("create_time")) == (run.state, run.repaired, True)
    ask.reason = "another"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(office.Reconcile(ask))
    assert error_info(refused.value).reason == "REQUEST_ID_REUSED"
    missing = reconcile_pb2.GetReconcileRunRequest(run_id=999)
    assert await office.refused(office.GetReconcileRun(missing)) == "RECONCILE_RUN_NOT_FOUND"


async def test_everything_is_three_runs_and_one_customer_is_one(office: Office) -> None:
    await office.bought("ann")
    told = await read(office.Reconcile(reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVERYTHING))))
    ended = [one.run for one in told if one.ended]
    scopes = [_Run.SCOPE_EVENTS, _Run.SCOPE_SUBSCRIPTIONS, _Run.SCOPE_PURCHASES]
    assert [(run.scope, run.state) for run in ended] == [(scope, _Run.STATE_COMPLETE) for scope in scopes]
    one = reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_CUSTOMER, customer_id="ann"))
    run = (await read(office.Reconcile(one)))[-1].run
    assert (run.scope, run.state, run.found > 0) == (_Run.SCOPE_CUSTOMER, _Run.STATE_COMPLETE, True)
    ask = reconcile_pb2.ListReconcileRunsRequest(page_size=3)
    page = await office.ListReconcileRuns(ask)
    ask.page_token = page.next_page_token
    rest = await office.ListReconcileRuns(ask)
    assert [run.run_id for run in (*page.runs, *rest.runs)] == [4, 3, 2, 1]


async def test_a_run_that_is_stopped_says_so_and_the_next_one_goes_on(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
    await world.buy("ann")
    arrived = asyncio.Event()
    world.proxy.next("GET", "/v1/events", held(arrived, asyncio.Event()))
    call = office.Reconcile(reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVENTS)))
    reading = asyncio.create_task(read(call))
    async with asyncio.timeout(BOUND_S):
        await arrived.wait()
    for scope in (_Run.SCOPE_EVENTS, _Run.SCOPE_EVERYTHING):  # two would write into one run
        second = office.Reconcile(reconcile_pb2.ReconcileRequest(**asked(scope=scope)))
        assert await office.refused(read(second)) == "REQUEST_IN_PROGRESS"
    call.cancel()
    await asyncio.wait({reading})
    async with asyncio.timeout(BOUND_S):
        while world.sql("SELECT state FROM reconcile_runs") != [("stopped",)]:  # noqa: ASYNC110 - the server's own task
            await asyncio.sleep(0.05)
    again = await read(office.Reconcile(reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVENTS))))
    assert again[-1].run.state == _Run.STATE_COMPLETE


async def test_a_run_that_stripe_breaks_off_is_failed_and_never_complete(office: Office) -> None:
    office.world.proxy.next("GET", "/v1/events", fail)
    ask = reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVENTS))
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await read(office.Reconcile(ask))
    assert error_info(broken.value).reason == "STRIPE_UNAVAILABLE"
    assert office.world.sql("SELECT state FROM reconcile_runs") == [("failed",)]
    assert (await read(office.Reconcile(ask)))[-1].run.state == _Run.STATE_COMPLETE


# --- Erasing ------------------------------------------------------------------------------------------------------------


async def test_erasing_takes_out_what_names_the_customer_and_leaves_what_was_paid_for(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
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
    left = world.sql("SELECT octet_length(i.fingerprint), octet_length(r.fingerprint) FROM checkout_intents i"
                     " JOIN checkout_requests r USING (intent_id) WHERE customer_id = 'ann'")  # fmt: skip
    assert all(one == (0, 0) for one in left)
    assert "ann@example.com" not in str(world.sql("SELECT stripe_customer_request FROM customers"))


async def test_what_comes_after_an_erasure_is_emptied_too_and_asking_again_counts_on(office: Office) -> None:
    world = office.world  # noqa: F811 - the same
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
    world = office.world  # noqa: F811 - the same
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


async def test_no_reason_is_left_that_may_name_the_customer_nor_what_it_could_be_guessed_from(office: Office) -> None:
    """Of what was asked about them, and of what was asked about nobody in particular; who asked, for what and when stays."""
    world = office.world  # noqa: F811 - the same
    await office.bought("ann", "ben")
    world.sql(
        "INSERT INTO findings (kind, subject, customer_id, detail) VALUES ('drift', 'sub_a', 'ann', '{\"a\": 1}')"
    )
    world.sql("INSERT INTO findings (kind, subject, detail) VALUES ('denied_by_stripe', 'sub_x', '{}')")
    spoken = {"reason": "Ann Smith, 1 Main Street, called"}
    tied = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="sub_a", **spoken))
    await office.CloseFinding(tied)
    await office.CloseFinding(
        finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DENIED_BY_STRIPE, subject="sub_x", **spoken))
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
    """More than are looked at in one round, and more bodies of them than are emptied in one batch; also in quarantine."""
    monkeypatch.setattr(erase_customer, "OBJECTS_AT_ONCE", 3)
    monkeypatch.setattr(erasures, "LOOKED_AT", 2)
    world = office.world  # noqa: F811 - the same
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
        "INSERT INTO quarantined_events (event_key, payload, reason, detail)"
        " SELECT 'q' || n, convert_to('{\"broken\": \"in_' || n || '\"', 'UTF8'), 'malformed', ''"
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
    world = office.world  # noqa: F811 - the same
    await office.bought("ann")
    cus = world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    with psycopg.connect(database_url) as writer:
        writer.execute(
            "INSERT INTO stripe_events (event_id, type, created, object_id, livemode, outcome, payload)"
            " VALUES ('evt_edge', 'payment_method.attached', 1, 'pm_1', false, 'ignored', %s)",
            [json.dumps({"customer": cus}).encode()],
        )
        monkeypatch.setattr(erase_customer, "ANSWER_S", 2.0)  # longer than it would take without the writer
        begun = (await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann")))).erasure
        assert begun.state == customer_pb2.Erasure.STATE_RUNNING
    monkeypatch.setattr(erase_customer, "RUNNING_INTERVAL_S", 0.05)
    going_on = asyncio.create_task(office.erase.run())
    async with asyncio.timeout(BOUND_S):
        while world.sql("SELECT 1 FROM erasures WHERE done_time IS NULL"):  # noqa: ASYNC110 - the task's own
            await asyncio.sleep(0.05)
    going_on.cancel()
    await asyncio.wait({going_on})
    assert world.sql("SELECT octet_length(payload) FROM stripe_events WHERE event_id = 'evt_edge'") == [(0,)]


def test_the_service_has_a_role_on_every_method_and_it_is_the_admins() -> None:
    assert set(declared_roles(ADMIN_SERVICE).values()) == {Role.ADMIN}
    assert len(declared_roles(ADMIN_SERVICE)) == len(METHODS)
    assert admin_service_pb2.DESCRIPTOR.package == "billing.admin.v1"
