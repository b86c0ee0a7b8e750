"""A request about a subscription is read whole, or refused with everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from billing.v1 import subscription_pb2 as pb

from billing_service.domain.errors import InvalidFieldsError
from billing_service.domain.portal import PortalFlow, PortalRequest
from billing_service.domain.subscription import ChangeRequest, Operation, PreviewRequest, Wanted
from billing_service.rpc import subscription_requests as requests

NAMED: dict[str, Any] = {"customer_id": "u1", "stripe_subscription_id": "sub_1"}
BACK = "https://shop.example/account"


def violations(read: Callable[[Any], object], message: Any) -> list[str]:
    with pytest.raises(InvalidFieldsError) as caught:
        read(message)
    return [violation.field for violation in caught.value.violations]


@pytest.mark.parametrize(
    ("timing", "operation"),
    [
        (pb.UPDATE_TIMING_NOW_WITH_PRORATION, Operation.UPDATE_NOW),
        (pb.UPDATE_TIMING_AT_PERIOD_END, Operation.UPDATE_AT_PERIOD_END),
    ],
)
def test_reads_an_update_as_it_says(timing: pb.UpdateTiming.ValueType, operation: Operation) -> None:
    message = pb.UpdateSubscriptionRequest(request_id="r1", plan_key="team", quantity=3, timing=timing, **NAMED)
    assert requests.update_request(message) == ChangeRequest("r1", "u1", "sub_1", operation, Wanted("team", None, 3))


def test_reads_a_preview_as_it_says() -> None:
    message = pb.PreviewSubscriptionUpdateRequest(price_key="yearly", timing=pb.UPDATE_TIMING_AT_PERIOD_END, **NAMED)
    wanted = PreviewRequest("u1", "sub_1", at_period_end=True, wanted=Wanted(None, "yearly", None))
    assert requests.preview_request(message) == wanted


@pytest.mark.parametrize(
    ("timing", "operation"),
    [
        (pb.CANCEL_TIMING_NOW, Operation.CANCEL_NOW),
        (pb.CANCEL_TIMING_AT_PERIOD_END, Operation.CANCEL_AT_PERIOD_END),
    ],
)
def test_reads_a_cancellation_as_it_says(timing: pb.CancelTiming.ValueType, operation: Operation) -> None:
    message = pb.CancelSubscriptionRequest(request_id="r1", timing=timing, **NAMED)
    assert requests.cancel_request(message) == ChangeRequest("r1", "u1", "sub_1", operation)


def test_reads_a_resumption() -> None:
    message = pb.ResumeSubscriptionRequest(request_id="r1", **NAMED)
    assert requests.resume_request(message) == ChangeRequest("r1", "u1", "sub_1", Operation.RESUME)


def test_names_every_field_of_an_update_that_does_not_hold_at_once() -> None:
    message = pb.UpdateSubscriptionRequest(
        customer_id=" u", stripe_subscription_id="cs_1", plan_key="", price_key="", quantity=0
    )
    assert violations(requests.update_request, message) == [
        "request_id", "customer_id", "stripe_subscription_id", "plan_key", "price_key", "quantity", "timing",
    ]  # fmt: skip


def test_an_update_that_asks_for_nothing_or_leaves_the_time_open_is_refused() -> None:
    assert violations(requests.preview_request, pb.PreviewSubscriptionUpdateRequest(**NAMED)) == ["plan_key", "timing"]
    assert violations(requests.cancel_request, pb.CancelSubscriptionRequest(request_id="r", **NAMED)) == ["timing"]
    unknown = pb.CancelSubscriptionRequest(request_id="r", timing=9, **NAMED)  # type: ignore[arg-type]  # of a newer contract
    assert violations(requests.cancel_request, unknown) == ["timing"]


@pytest.mark.parametrize(
    ("flow", "subscription_id", "meant"),
    [
        (pb.PORTAL_FLOW_UNSPECIFIED, None, PortalFlow.MANAGE),
        (pb.PORTAL_FLOW_MANAGE, None, PortalFlow.MANAGE),
        (pb.PORTAL_FLOW_UPDATE_PLAN, "sub_1", PortalFlow.UPDATE_PLAN),
        (pb.PORTAL_FLOW_CANCEL, "sub_1", PortalFlow.CANCEL),
        (pb.PORTAL_FLOW_UPDATE_PAYMENT_METHOD, None, PortalFlow.UPDATE_PAYMENT_METHOD),
    ],
)
def test_reads_a_portal_request_as_it_says(
    flow: pb.PortalFlow.ValueType, subscription_id: str | None, meant: PortalFlow
) -> None:
    message = pb.CreatePortalSessionRequest(
        customer_id="u1", return_url=BACK, flow=flow, stripe_subscription_id=subscription_id
    )
    assert requests.portal_request(message) == PortalRequest("u1", BACK, meant, subscription_id)


def test_a_portal_flow_has_a_subscription_exactly_where_it_is_for_one() -> None:
    missing = pb.CreatePortalSessionRequest(customer_id="u1", return_url=BACK, flow=pb.PORTAL_FLOW_CANCEL)
    assert violations(requests.portal_request, missing) == ["stripe_subscription_id"]
    surplus = pb.CreatePortalSessionRequest(return_url=BACK, **NAMED)
    assert violations(requests.portal_request, surplus) == ["stripe_subscription_id"]
    newer = pb.CreatePortalSessionRequest(customer_id="u1", return_url="javascript:1", flow=9)  # type: ignore[arg-type]  # of a newer contract
    assert violations(requests.portal_request, newer) == ["return_url", "flow"]


def test_the_portal_leads_back_to_named_hosts_alone_where_there_are_some() -> None:
    message = pb.CreatePortalSessionRequest(customer_id="u1", return_url=BACK)
    assert requests.portal_request(message, ("shop.example",)).return_url == BACK
    assert violations(lambda one: requests.portal_request(one, ("other.example",)), message) == ["return_url"]
