"""What operators did is listed to operators, over the wire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from billing.admin.v1 import customer_pb2, event_pb2, finding_pb2, grant_pb2, operator_request_pb2, reconcile_pb2

from billing_service.domain.operator import Operation
from billing_service.rpc.operators_record import OPERATIONS
from tests.integration.rpc.office import Office, asked, read

_Done = operator_request_pb2.OperatorRequest


async def listed(office: Office, **filters: Any) -> list[operator_request_pb2.OperatorRequest]:
    """Give what the list has, page after page."""
    found: list[operator_request_pb2.OperatorRequest] = []
    ask = operator_request_pb2.ListOperatorRequestsRequest(page_size=2, **filters)
    for _ in range(20):
        page = await office.ListOperatorRequests(ask)
        assert len(page.operator_requests) <= 2
        found += page.operator_requests
        ask.page_token = page.next_page_token
        if not page.next_page_token:
            return found
    raise AssertionError("pages without end")


async def do_everything(office: Office) -> str:
    """Have each mutation done once; give the grant that was made, of ann."""
    await office.bought("ann")
    cus = office.world.sql("SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = 'ann'")[0][0]
    office.world.sql("INSERT INTO findings (kind, subject, detail) VALUES ('drift', 'sub_x', '{}')")
    await office.world.fulfill([b"{not json"])
    wish = grant_pb2.CreateGrantRequest(**asked(customer_id="ann", mode=1, plan={"plan_key": "team"}))
    made: str = (await office.CreateGrant(wish)).grant.grant_id
    await office.RevokeGrant(grant_pb2.RevokeGrantRequest(**asked(grant_id=made, actor="bob", reason="by mistake")))
    await office.LinkStripeCustomer(
        customer_pb2.LinkStripeCustomerRequest(**asked(customer_id="ann", stripe_customer_id=cus))
    )
    malformed = event_pb2.QuarantinedEvent.REASON_MALFORMED
    await office.ReplayEvents(event_pb2.ReplayEventsRequest(**asked(quarantine_reason=malformed)))
    scope = reconcile_pb2.ReconcileRun.SCOPE_EVENTS
    await read(office.Reconcile(reconcile_pb2.ReconcileRequest(**asked(scope=scope))))
    drift = finding_pb2.Finding.KIND_DRIFT
    await office.CloseFinding(finding_pb2.CloseFindingRequest(**asked(kind=drift, subject="sub_x")))
    key = (await office.ListQuarantinedEvents(event_pb2.ListQuarantinedEventsRequest())).quarantined_events[0].event_key
    await office.DiscardQuarantinedEvent(event_pb2.DiscardQuarantinedEventRequest(**asked(event_key=key)))
    return made


async def test_everything_that_operators_did_is_listed_the_last_first_with_who_and_why(office: Office) -> None:
    made = await do_everything(office)
    await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="nobody", reason="x"))).code()
    done = await listed(office)
    assert [one.operation for one in done] == [
        _Done.OPERATION_DISCARD_QUARANTINED_EVENT,
        _Done.OPERATION_CLOSE_FINDING,
        _Done.OPERATION_RECONCILE,
        _Done.OPERATION_REPLAY_EVENTS,
        _Done.OPERATION_LINK_STRIPE_CUSTOMER,
        _Done.OPERATION_REVOKE_GRANT,
        _Done.OPERATION_CREATE_GRANT,
    ], "what failed has left nothing"
    revoked = done[5]
    assert (revoked.actor, revoked.identity, revoked.reason) == ("bob", "admin", "by mistake")
    assert (revoked.customer_id, revoked.result["grant_id"]) == ("ann", made)
    assert (done[1].customer_id, done[1].result["subject"]) == ("", "sub_x")
    assert (done[0].customer_id, str(done[0].result["event_key"])[:7]) == ("", "sha256:")
    assert len({one.request_id for one in done}) == len(done)
    times = [one.create_time.ToNanoseconds() for one in done]
    assert times == sorted(times, reverse=True)


async def test_the_list_is_narrowed_by_whom_by_what_about_whom_and_when(office: Office) -> None:
    await do_everything(office)
    office.world.sql("UPDATE operator_requests SET identity = NULL WHERE operation = 'close_finding'")
    everything = await listed(office)
    assert [one.actor for one in await listed(office, actor="bob")] == ["bob"]
    assert await listed(office, actor="bo") == []
    assert len(await listed(office, identity="admin")) == len(everything) - 1
    assert [one.identity for one in await listed(office, operation=_Done.OPERATION_CLOSE_FINDING)] == [""]
    assert {one.customer_id for one in await listed(office, customer_id="ann")} == {"ann"}
    middle = everything[2].create_time.ToDatetime()
    later, before = await listed(office, start_time=middle), await listed(office, end_time=middle)
    assert (later, before) == (everything[:3], everything[3:])
    assert await listed(office, start_time=middle, end_time=middle + timedelta(microseconds=1)) == [everything[2]]


async def test_requests_of_one_moment_and_of_a_newer_release_are_listed_too(office: Office) -> None:
    """Pages lose none of those that one moment has; what this release does not know has no operation."""
    columns = "request_id, operation, fingerprint, actor, reason, answer, create_time"
    office.world.sql(
        f"INSERT INTO operator_requests ({columns}) SELECT 'r' || n, 'of_tomorrow', '', 'eve', 'y', '{{}}',"  # noqa: S608 - of this test
        " '2026-01-01T00:00:00Z' FROM generate_series(1, 5) AS n"
    )
    done = await listed(office)
    assert [one.request_id for one in done] == ["r5", "r4", "r3", "r2", "r1"]
    assert {one.operation for one in done} == {_Done.OPERATION_UNSPECIFIED}


async def test_the_record_of_an_erased_customer_has_no_reason_left_but_that_of_the_erasing(office: Office) -> None:
    await do_everything(office)
    await office.EraseCustomer(customer_pb2.EraseCustomerRequest(**asked(customer_id="ann", reason="she asked")))
    done = await listed(office)
    assert (done[0].operation, done[0].reason) == (_Done.OPERATION_ERASE_CUSTOMER, "she asked")
    assert {one.reason for one in done[1:]} == {""}
    assert {one.actor for one in done} == {"eve@ops.example", "bob"}


def test_every_operation_has_its_name_in_the_contract() -> None:
    """Each is named after its method, and each mutation of the service is one."""
    assert set(OPERATIONS.values()) == set(Operation)
    names = {operation: _Done.Operation.Name(number) for number, operation in OPERATIONS.items()}  # type: ignore[arg-type]  # a number of it
    assert names == {operation: f"OPERATION_{operation.name}" for operation in Operation}
