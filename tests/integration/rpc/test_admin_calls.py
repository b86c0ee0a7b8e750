"""What operators ask for, over the wire: who may, customers, grants and links."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from billing.admin.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    customer_pb2,
    event_pb2,
    finding_pb2,
    grant_pb2,
    operator_request_pb2,
    reconcile_pb2,
)
from billing.v1 import entitlement_pb2, watch_pb2
from google.protobuf.message import Message
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from billing_service.access import Role
from billing_service.domain.checkout import CheckoutRequest
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.rpc.roles import declared_roles
from billing_service.rpc.server import ADMIN_SERVICE, public_listener
from tests.integration.rpc.office import BOUND_S, METHODS, Office, asked, now, read, request_of
from tests.integration.rpc.wire import error_info, listening
from tests.stripe_proxy import fail
from tests.unserved import Unserved

_Finding = finding_pb2.Finding
_Run = reconcile_pb2.ReconcileRun


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
    event_pb2.DiscardQuarantinedEventRequest(**asked(event_key="evt_\n")),
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
    operator_request_pb2.ListOperatorRequestsRequest(actor=""),
    operator_request_pb2.ListOperatorRequestsRequest(operation=99),  # type: ignore[arg-type] # as an older client would
    operator_request_pb2.ListOperatorRequestsRequest(page_token="AAAA"),
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
    world = office.world
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
    office.world.sql(
        "INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES ('evt_1', '{', 'unwritable', 'x')"
    )
    cus = (await office.world.call("POST", "/v1/customers"))["id"]
    requests: list[Any] = [
        grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, plan={"plan_key": "team"})),
        customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ann", stripe_customer_id=cus)),
        finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="sub_1")),
        event_pb2.ReplayEventsRequest(**asked(quarantine_reason=event_pb2.QuarantinedEvent.REASON_MALFORMED)),
        event_pb2.DiscardQuarantinedEventRequest(**asked(event_key="evt_1")),
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
        "create_grant", "link_stripe_customer", "close_finding", "replay_events",
        "discard_quarantined_event", "erase_customer",
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
    world = office.world
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
    world = office.world
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
    world = office.world
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


def test_the_service_has_a_role_on_every_method_and_it_is_the_admins() -> None:
    assert set(declared_roles(ADMIN_SERVICE).values()) == {Role.ADMIN}
    assert len(declared_roles(ADMIN_SERVICE)) == len(METHODS)
    assert admin_service_pb2.DESCRIPTOR.package == "billing.admin.v1"
