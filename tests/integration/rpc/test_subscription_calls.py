"""The calls about subscriptions, over a real socket, from the caller's stub to Stripe's stand-in and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC

import grpc
import pytest
from billing.v1 import billing_service_pb2_grpc, entitlement_pb2
from billing.v1 import subscription_pb2 as pb

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
from tests.integration.flows.subscriber import Clock, Subscriber, decline, stand_in, subscriber
from tests.integration.rpc.wire import error_info, listening


@dataclass(frozen=True)
class Caller:
    """A caller of the service, and a subscription of Ann's."""

    billing: billing_service_pb2_grpc.BillingServiceAsyncStub
    ann: Subscriber
    subscription_id: str


@pytest.fixture
async def caller(database_url: str) -> AsyncIterator[Caller]:
    clock = Clock()
    database = Database(database_url)
    async with stand_in(clock) as url, subscriber(database_url, url, clock) as ann:
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


async def test_a_change_is_previewed_made_cancelled_and_resumed(caller: Caller) -> None:
    named = {"customer_id": "ann", "stripe_subscription_id": caller.subscription_id}
    now = pb.UPDATE_TIMING_NOW_WITH_PRORATION
    preview = await caller.billing.PreviewSubscriptionUpdate(
        pb.PreviewSubscriptionUpdateRequest(plan_key="team", quantity=4, timing=now, **named)
    )
    assert (preview.currency_code, preview.due_now_amount_minor, preview.period_amount_minor) == ("EUR", 2400, 3600)
    changes = {change.feature_key: change for change in preview.feature_changes}
    assert changes["projects"].before.integer_value == 50
    assert changes["projects"].after.unlimited
    updated = await caller.billing.UpdateSubscription(
        pb.UpdateSubscriptionRequest(request_id="r1", plan_key="team", quantity=4, timing=now, **named)
    )
    assert (updated.subscription.plan_key, updated.subscription.quantity) == ("team", 4)
    assert updated.subscription.state == entitlement_pb2.Source.STATE_ACTIVE
    assert not updated.subscription.HasField("end_time")
    cancelled = await caller.billing.CancelSubscription(
        pb.CancelSubscriptionRequest(request_id="r2", timing=pb.CANCEL_TIMING_AT_PERIOD_END, **named)
    )
    assert cancelled.subscription.state == entitlement_pb2.Source.STATE_ENDING
    assert cancelled.subscription.end_time == cancelled.subscription.period_end_time
    resumed = await caller.billing.ResumeSubscription(pb.ResumeSubscriptionRequest(request_id="r3", **named))
    assert resumed.subscription == updated.subscription


async def test_a_change_at_period_end_says_what_waits_and_until_when(caller: Caller) -> None:
    answer = await caller.billing.UpdateSubscription(
        pb.UpdateSubscriptionRequest(
            request_id="r1",
            customer_id="ann",
            stripe_subscription_id=caller.subscription_id,
            plan_key="team",
            quantity=2,
            timing=pb.UPDATE_TIMING_AT_PERIOD_END,
        )
    )
    waiting = answer.subscription.scheduled_change
    assert (answer.subscription.plan_key, waiting.plan_key, waiting.quantity) == ("pro", "team", 2)
    assert waiting.effective_time.ToDatetime(UTC) > caller.ann.clock()


async def test_the_portals_url_arrives(caller: Caller) -> None:
    answer = await caller.billing.CreatePortalSession(
        pb.CreatePortalSessionRequest(
            customer_id="ann",
            return_url="https://shop.example/account",
            flow=pb.PORTAL_FLOW_CANCEL,
            stripe_subscription_id=caller.subscription_id,
        )
    )
    assert answer.url.startswith(f"{caller.ann.stripe_url}/portal/")


async def test_refusals_arrive_with_their_codes_and_reasons(caller: Caller) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await caller.billing.ResumeSubscription(
            pb.ResumeSubscriptionRequest(
                request_id="r1", customer_id="bob", stripe_subscription_id=caller.subscription_id
            )
        )
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(missing.value).reason == "SUBSCRIPTION_NOT_FOUND"
    caller.ann.proxy.next("POST", f"/v1/subscriptions/{caller.subscription_id}", decline)
    with pytest.raises(grpc.aio.AioRpcError) as declined:
        await caller.billing.UpdateSubscription(
            pb.UpdateSubscriptionRequest(
                request_id="r2",
                customer_id="ann",
                stripe_subscription_id=caller.subscription_id,
                plan_key="team",
                timing=pb.UPDATE_TIMING_NOW_WITH_PRORATION,
            )
        )
    assert declined.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(declined.value).metadata["stripe_code"] == "card_declined"
