"""From a backend's request to what the customer may use, over sockets alone."""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import grpc
import pytest
from billing.internal.v1 import fulfillment_service_pb2
from billing.internal.v1.fulfillment_service_pb2_grpc import FulfillmentServiceStub
from billing.v1 import checkout_pb2, entitlement_pb2
from billing.v1.billing_service_pb2_grpc import BillingServiceStub
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # comes without types

from tests.acceptance.world import World, eventually

_State = checkout_pb2.CheckoutSession.State


def _value(answer: entitlement_pb2.GetEntitlementsResponse, feature_key: str) -> object:
    value = next(item.value for item in answer.entitlements if item.feature_key == feature_key)
    return getattr(value, str(value.WhichOneof("kind")))


async def test_a_paid_subscription_is_entitled(world: World, customer_id: str) -> None:
    """Who pays for Pro on the page has Pro: its features, with the subscription that gives them and until when."""
    session = await world.checkout(customer_id)
    assert (session.state, await world.plans_of(customer_id)) == (_State.STATE_OPEN, ["free"])
    async with world.http.get(session.url) as page:
        assert page.status == 200
        assert "Pro" in await page.text()
    async with world.http.post(session.url, data={"action": "pay"}, allow_redirects=False) as back:
        assert (
            back.headers["Location"]
            == f"https://shop.example/account?checkout_session_id={session.checkout_session_id}"
        )
    answer = await world.until_plan(customer_id, "pro")
    assert (_value(answer, "projects"), _value(answer, "api_access"), _value(answer, "support")) == (50, True, "e-mail")
    source = next(item.source for item in answer.entitlements if item.feature_key == "projects")
    assert source.type == entitlement_pb2.Source.TYPE_SUBSCRIPTION
    assert source.stripe_subscription_id.startswith("sub_")
    assert source.end_time.seconds > answer.read_time.seconds
    await world.until_state(session.checkout_session_id, _State.STATE_COMPLETE)


async def test_a_delayed_payment_grants_nothing_before_it_has_settled(world: World, customer_id: str) -> None:
    session = await world.checkout(customer_id)
    await world.pay(session, "processing")
    await world.until_state(session.checkout_session_id, _State.STATE_PROCESSING)
    await world.until_delivered()
    assert await world.plans_of(customer_id) == ["free"]
    await world.control(f"checkout/sessions/{session.checkout_session_id}/settle", outcome="succeeded")
    await world.until_plan(customer_id, "pro")


async def test_a_delayed_payment_that_fails_grants_nothing(world: World, customer_id: str) -> None:
    session = await world.checkout(customer_id)
    await world.pay(session, "processing")
    await world.control(f"checkout/sessions/{session.checkout_session_id}/settle", outcome="failed")
    await world.until_state(session.checkout_session_id, _State.STATE_PAYMENT_FAILED)
    await world.until_delivered()
    assert await world.plans_of(customer_id) == ["free"]


async def test_a_declined_card_leaves_the_page_open(world: World, customer_id: str) -> None:
    """A decline grants nothing, and the same page can still be paid on."""
    session = await world.checkout(customer_id)
    await world.pay(session, "declined")
    await world.until_delivered()
    assert (await world.session(session.checkout_session_id)).state == _State.STATE_OPEN
    assert await world.plans_of(customer_id) == ["free"]
    await world.pay(session)
    await world.until_plan(customer_id, "pro")


async def test_seats_are_multiplied(world: World, customer_id: str) -> None:
    await world.pay(await world.checkout(customer_id, "team", quantity=7))
    answer = await world.until_plan(customer_id, "team")
    assert (_value(answer, "seats"), _value(answer, "projects")) == (7, True)  # projects: unlimited


async def test_a_one_time_plan_stands_beside_the_free_one_and_ends_by_itself(world: World, customer_id: str) -> None:
    await world.pay(await world.checkout(customer_id, "export_pass"))
    answer = await world.until_plan(customer_id, "export_pass")
    assert sorted(answer.plan_keys) == ["export_pass", "free"]
    export = next(item for item in answer.entitlements if item.feature_key == "export")
    days = (export.source.end_time.seconds - export.source.start_time.seconds) / 86_400
    assert (export.value.bool_value, days) == (True, 30)


async def test_a_cancelled_subscription_ends(world: World, customer_id: str) -> None:
    """After Stripe says that the subscription is over, the customer is back on the free plan."""
    await world.pay(await world.checkout(customer_id))
    answer = await world.until_plan(customer_id, "pro")
    subscription_id = answer.entitlements[0].source.stripe_subscription_id
    await world.control(f"subscriptions/{subscription_id}/cancel", at_period_end=False)
    await eventually(lambda: world.plans_of(customer_id), lambda plans: plans == ["free"])


async def test_one_request_id_makes_one_session_however_often_it_is_sent(world: World, customer_id: str) -> None:
    """Ten calls at once with one request id get one session; whoever is told to come again gets it then."""
    request_id = str(uuid.uuid4())

    async def ask() -> str | None:
        try:
            return (await world.checkout(customer_id, request_id=request_id)).checkout_session_id
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.ABORTED:
                raise
            return None

    answers = {await ask(), *await asyncio.gather(*(ask() for _ in range(10))), await ask()} - {None}
    assert len(answers) == 1
    async with world.stripe() as client:
        customers = [item.to_dict() async for item in (await client.v1.customers.list_async()).auto_paging_iter()]
        ours = [item["id"] for item in customers if item["metadata"].get("billing_customer_id") == customer_id]
        assert len(ours) == 1
        sessions = await client.v1.checkout.sessions.list_async({"customer": ours[0]})
        assert {item.id for item in sessions.data} == answers


async def test_a_second_plan_of_the_group_is_refused(world: World, customer_id: str) -> None:
    """Who has Pro cannot be charged for Team beside it; the reason says so."""
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.checkout(customer_id, "team")
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(refused.value).details)
    assert (refused.value.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_SUBSCRIBED")


async def test_nobody_fulfils_himself_a_plan(world: World) -> None:
    """The internal listener refuses a call without the token, and the public one does not know the method."""
    for address, code in (("internal", grpc.StatusCode.UNAUTHENTICATED), ("grpc", grpc.StatusCode.UNIMPLEMENTED)):
        async with grpc.aio.insecure_channel(world.addresses[address]) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await FulfillmentServiceStub(channel).Fulfill(fulfillment_service_pb2.FulfillRequest(), timeout=10)
        assert refused.value.code() == code


async def test_nobody_calls_without_a_token(world: World) -> None:
    """The sandbox's callers show who they are, as a company's would; its gateway's token opens the other door alone."""
    codes = []
    for shown in ((), (("authorization", f"Bearer {world.addresses['internal_token']}"),)):
        async with grpc.aio.insecure_channel(world.addresses["grpc"]) as channel:
            request = entitlement_pb2.GetEntitlementsRequest(customer_id="ann")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await BillingServiceStub(channel).GetEntitlements(request, timeout=10, metadata=shown)
        codes.append(refused.value.code())
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2


async def test_what_the_terminal_is_told_to_try_works(world: World) -> None:
    """Health and readiness answer for the service and the gateway."""
    for url in (
        f"{world.addresses['ops']}/readyz",
        f"{world.addresses['gateway']}/readyz",
        f"{world.addresses['ops']}/livez",
    ):
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            assert response.status == 200
