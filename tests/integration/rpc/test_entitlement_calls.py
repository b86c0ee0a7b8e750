"""The calls about entitlements over a real socket: what is refused and how, and that what is asked for is what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from billing.v1 import billing_service_pb2_grpc
from billing.v1 import entitlement_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from billing_service.domain.catalog import Catalog
from billing_service.flows.admit_catalog import AdmitCatalog
from billing_service.flows.change_feed import ChangeFeed
from billing_service.flows.check_entitlement import CheckEntitlement
from billing_service.flows.get_checkout_session import GetCheckoutSession
from billing_service.flows.list_plans import ListPlans
from billing_service.flows.retell import Retell
from billing_service.flows.watch_entitlements import WatchEntitlements
from billing_service.rpc.server import public_listener
from billing_service.rpc.servicers import BillingFlows, BillingServicer
from billing_service.storage.database import Database
from tests.entitlement_flows import get_entitlements
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.subscriber import Clock, Subscriber, stand_in, subscriber
from tests.integration.rpc.wire import error_info, listening


@dataclass(frozen=True)
class Caller:
    """A caller of the service; Ann is on pro."""

    billing: billing_service_pb2_grpc.BillingServiceAsyncStub
    ann: Subscriber
    subscription_id: str

    async def refused(self, **fields: Any) -> grpc.aio.AioRpcError:
        """Ask for Ann's entitlements, and give the error."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.billing.GetEntitlements(pb.GetEntitlementsRequest(customer_id="ann", **fields), timeout=5)
        return raised.value


@pytest.fixture
async def caller(database_url: str) -> AsyncIterator[Caller]:
    clock, catalog = Clock(), CATALOG
    database = Database(database_url)
    await admitted(database, catalog, clock)
    async with stand_in(clock) as url, subscriber(database_url, url, clock) as ann:
        await ann.prices.refresh()
        flows = BillingFlows(
            create_checkout_session=ann.buy,
            get_checkout_session=GetCheckoutSession(database, clock),
            get_entitlements=get_entitlements(database, ann.prices, ann.read, ann.reads, clock),
            check_entitlement=CheckEntitlement(ann.prices, ann.read),
            list_plans=ListPlans(ann.prices),
            watch_entitlements=WatchEntitlements(
                database, ann.prices, ChangeFeed(database, database_url, Retell(database, ann.prices, clock)), clock
            ),
            change_subscription=ann.change,
            preview_subscription_update=ann.preview,
            create_portal_session=ann.portal,
        )
        async with listening(public_listener(BillingServicer(flows))) as wire:
            yield Caller(wire.billing, ann, await ann.subscribed())
    await database.close()


async def admitted(database: Database, catalog: Catalog, clock: Clock) -> None:
    await AdmitCatalog(database, catalog, clock)()


async def test_a_filter_gives_the_features_that_were_asked_for_in_the_catalogs_order(caller: Caller) -> None:
    request = pb.GetEntitlementsRequest(customer_id="ann", feature_keys=["support", "projects", "support"])
    answer = await caller.billing.GetEntitlements(request)
    assert [one.feature_key for one in answer.entitlements] == ["projects", "support"]
    assert list(answer.plan_keys) == ["pro"]
    assert answer.catalog_version == CATALOG.version
    assert answer.checkout_outcome == pb.CHECKOUT_OUTCOME_UNSPECIFIED


async def test_an_unknown_feature_is_an_invalid_argument_that_names_it(caller: Caller) -> None:
    error = await caller.refused(feature_keys=["projects", "projetcs"])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = error_info(error)
    assert (info.reason, info.metadata["feature_key"]) == ("FEATURE_NOT_FOUND", "projetcs")
    assert [violation.field for violation in bad_request(error).field_violations] == ["feature_keys[1]"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"min_revision": -1}, ["min_revision"]),
        ({"feature_keys": [""]}, ["feature_keys[0]"]),
        ({"feature_keys": ["projects"] * 501}, ["feature_keys"]),
        ({"after_checkout_session_id": ""}, ["after_checkout_session_id"]),
        ({"as_of": Timestamp(seconds=10), "min_revision": 1}, ["as_of"]),
        ({"as_of": Timestamp(seconds=10), "after_checkout_session_id": "cs_1"}, ["as_of"]),
        ({"as_of": Timestamp(seconds=2**62)}, ["as_of"]),
        ({"as_of": Timestamp(seconds=253_402_300_799)}, ["as_of"]),
    ],
)
async def test_what_does_not_hold_is_named(caller: Caller, fields: dict[str, Any], named: list[str]) -> None:
    error = await caller.refused(**fields)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in bad_request(error).field_violations] == named


async def test_a_revision_that_was_answered_is_reached_and_one_never_given_is_unavailable(caller: Caller) -> None:
    revision = (await caller.billing.GetEntitlements(pb.GetEntitlementsRequest(customer_id="ann"))).revision
    request = pb.GetEntitlementsRequest(customer_id="ann", min_revision=revision)
    assert (await caller.billing.GetEntitlements(request)).revision == revision
    error = await caller.refused(min_revision=revision + 1)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    info = error_info(error)
    assert (info.reason, info.metadata["revision"]) == ("REVISION_NOT_REACHED", str(revision))
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta() > timedelta(0)


async def test_a_purchase_of_somebody_else_is_not_found(caller: Caller) -> None:
    session_id = (await caller.ann.at_stripe("checkout/sessions"))["data"][0]["id"]
    request = pb.GetEntitlementsRequest(customer_id="bob", after_checkout_session_id=session_id)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await caller.billing.GetEntitlements(request)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(raised.value).reason == "CHECKOUT_SESSION_NOT_FOUND"
    own = pb.GetEntitlementsRequest(customer_id="ann", after_checkout_session_id=session_id)
    found = await caller.billing.GetEntitlements(own)
    assert found.checkout_outcome == pb.CHECKOUT_OUTCOME_ENTITLED
    error = await caller.refused(after_checkout_session_id=session_id, min_revision=found.revision + 1)
    assert error_info(error).reason == "REVISION_NOT_REACHED", "a revision that is asked for holds beside a session too"


async def test_the_past_is_answered_and_what_lies_before_it_is_out_of_range(caller: Caller) -> None:
    before = datetime.now(UTC) - timedelta(days=1)
    then = Timestamp()
    then.FromDatetime(before)
    error = await caller.refused(as_of=then)
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    info = error_info(error)
    assert info.reason == "AS_OF_NOT_KEPT"
    kept_since = datetime.fromisoformat(info.metadata["kept_since"])
    then.FromDatetime(kept_since)
    answer = await caller.billing.GetEntitlements(pb.GetEntitlementsRequest(customer_id="ann", as_of=then))
    assert (answer.revision, list(answer.plan_keys), answer.read_time) == (0, ["free"], then)


async def test_one_feature_is_judged(caller: Caller) -> None:
    given = await caller.billing.CheckEntitlement(pb.CheckEntitlementRequest(customer_id="ann", feature_key="projects"))
    assert (given.allowed, given.value.integer_value, given.source.plan_key) == (True, 50, "pro")
    assert given.reason == pb.CheckEntitlementResponse.REASON_GIVEN
    assert list(given.plan_keys) == ["team"]
    assert given.HasField("until_time")
    request = pb.CheckEntitlementRequest(customer_id="ann", feature_key="export")
    refused = await caller.billing.CheckEntitlement(request)
    assert (refused.allowed, refused.value.bool_value, list(refused.plan_keys)) == (False, False, ["export_pass"])
    assert refused.reason == pb.CheckEntitlementResponse.REASON_NOT_IN_PLAN
    assert not refused.HasField("source")
    assert (refused.revision, refused.catalog_version) == (given.revision, CATALOG.version)


async def test_a_judgement_about_no_feature_is_refused(caller: Caller) -> None:
    for key, reason in (("projetcs", "FEATURE_NOT_FOUND"), ("", "INVALID_FIELDS")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await caller.billing.CheckEntitlement(pb.CheckEntitlementRequest(customer_id="ann", feature_key=key))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(raised.value).reason == reason


async def test_many_are_answered_in_the_order_of_the_requests(caller: Caller) -> None:
    names = ["bob", "ann", "bob", "cleo"]
    requests = [pb.GetEntitlementsRequest(customer_id=name, feature_keys=["projects"]) for name in names]
    answer = await caller.billing.BatchGetEntitlements(pb.BatchGetEntitlementsRequest(requests=requests))
    assert [one.customer_id for one in answer.responses] == names
    assert [one.entitlements[0].value.integer_value for one in answer.responses] == [3, 50, 3, 3]


@pytest.mark.parametrize("count", [0, 201])
async def test_a_batch_is_bounded(caller: Caller, count: int) -> None:
    requests = [pb.GetEntitlementsRequest(customer_id="ann")] * count
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await caller.billing.BatchGetEntitlements(pb.BatchGetEntitlementsRequest(requests=requests))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in bad_request(raised.value).field_violations] == ["requests"]


async def test_a_batch_fails_as_a_whole_and_names_what_failed(caller: Caller) -> None:
    good = pb.GetEntitlementsRequest(customer_id="ann")
    waits = pb.GetEntitlementsRequest(customer_id="", after_checkout_session_id="cs_1")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await caller.billing.BatchGetEntitlements(pb.BatchGetEntitlementsRequest(requests=[good, waits]))
    fields = [violation.field for violation in bad_request(raised.value).field_violations]
    assert fields == ["requests[1].customer_id", "requests[1].after_checkout_session_id"]
    unknown = pb.GetEntitlementsRequest(customer_id="ann", feature_keys=["projetcs"])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await caller.billing.BatchGetEntitlements(pb.BatchGetEntitlementsRequest(requests=[good, unknown]))
    info = error_info(raised.value)
    assert (info.reason, info.metadata["request_index"]) == ("FEATURE_NOT_FOUND", "1")


def detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    """Give the one detail of a kind."""
    found = kind()
    status = rpc_status.from_call(error)
    assert status is not None
    assert any(one.Unpack(found) for one in status.details if one.Is(kind.DESCRIPTOR))
    return found


def bad_request(error: grpc.aio.AioRpcError) -> Any:
    """Give the fields that do not hold."""
    return detail(error, error_details_pb2.BadRequest)
