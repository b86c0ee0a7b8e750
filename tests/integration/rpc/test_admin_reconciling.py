"""Operators have things compared with Stripe, over the wire, and hear how far that is."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from billing.admin.v1 import (
    reconcile_pb2,
)

from billing_service.flows import patience
from tests.integration.rpc.office import BOUND_S, Office, asked, read
from tests.integration.rpc.wire import error_info
from tests.stripe_proxy import fail, held

_Run = reconcile_pb2.ReconcileRun


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
    world = office.world
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


async def test_a_run_that_stripe_breaks_off_is_failed_and_never_complete(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 1)
    office.world.proxy.next("GET", "/v1/events", fail)
    ask = reconcile_pb2.ReconcileRequest(**asked(scope=_Run.SCOPE_EVENTS))
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await read(office.Reconcile(ask))
    assert error_info(broken.value).reason == "STRIPE_UNAVAILABLE"
    assert office.world.sql("SELECT state FROM reconcile_runs") == [("failed",)]
    assert (await read(office.Reconcile(ask)))[-1].run.state == _Run.STATE_COMPLETE
