"""A request is read whole, or refused with everything that is wrong with it."""

from __future__ import annotations

import pytest
from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import checkout_pb2, entitlement_pb2

from billing_service.domain.checkout import CheckoutRequest
from billing_service.domain.errors import InvalidFieldsError
from billing_service.rpc import entitlement_requests, requests


def _valid() -> checkout_pb2.CreateCheckoutSessionRequest:
    return checkout_pb2.CreateCheckoutSessionRequest(
        request_id="r1",
        customer_id="u1",
        plan_key="pro",
        success_url="https://shop.example/done",
        cancel_url="https://shop.example/back",
    )


def test_reads_the_least_that_a_request_must_say_with_the_documented_defaults() -> None:
    assert requests.checkout_request(_valid()) == CheckoutRequest(
        request_id="r1",
        customer_id="u1",
        plan_key="pro",
        price_key=None,
        quantity=1,
        success_url="https://shop.example/done",
        cancel_url="https://shop.example/back",
        customer_email=None,
        allow_promotion_codes=False,
        metadata={},
    )


def test_reads_everything_that_a_request_can_say() -> None:
    message = _valid()
    message.price_key = "yearly"
    message.quantity = 7
    message.customer_email = "a@b.example"
    message.allow_promotion_codes = True
    message.metadata["order"] = "17"
    read = requests.checkout_request(message)
    assert (read.price_key, read.quantity, read.customer_email) == ("yearly", 7, "a@b.example")
    assert read.allow_promotion_codes is True
    assert read.metadata == {"order": "17"}


def test_names_every_field_that_does_not_hold_at_once() -> None:
    message = checkout_pb2.CreateCheckoutSessionRequest(
        customer_id=" u",
        price_key="",
        quantity=0,
        success_url="shop",
        customer_email="x",
        metadata={"billing_x": "", "a": "\0"},
    )
    with pytest.raises(InvalidFieldsError) as caught:
        requests.checkout_request(message)
    assert [violation.field for violation in caught.value.violations] == [
        "request_id",
        "customer_id",
        "plan_key",
        "price_key",
        "quantity",
        "success_url",
        "cancel_url",
        "customer_email",
        'metadata["a"]',
        'metadata["billing_x"]',
    ]


def test_bounds_what_it_says_of_metadata_by_the_thousand() -> None:
    message = _valid()
    for number in range(5_000):
        message.metadata[f"billing_{number}" + "k" * 500] = ""
    with pytest.raises(InvalidFieldsError) as caught:
        requests.checkout_request(message)
    assert caught.value.violations[0].field == "metadata"
    assert len(caught.value.violations) == 1 + requests.MAX_REPORTED_ENTRIES
    assert max(len(violation.field) for violation in caught.value.violations) < 60


def test_refuses_a_customer_id_and_a_session_id_that_cannot_be_one() -> None:
    with pytest.raises(InvalidFieldsError, match="customer_id"):
        entitlement_requests.entitlements_query(entitlement_pb2.GetEntitlementsRequest())
    with pytest.raises(InvalidFieldsError, match="checkout_session_id"):
        requests.checkout_session_id(checkout_pb2.GetCheckoutSessionRequest(checkout_session_id="sub_1"))


def test_a_batch_of_no_event_is_how_a_gateway_asks_whether_it_may_call() -> None:
    assert requests.event_payloads(fulfillment_service_pb2.FulfillRequest()) == []


def test_refuses_a_batch_that_is_too_long() -> None:
    events = [fulfillment_service_pb2.VerifiedEvent(payload=b"{}")] * 257
    with pytest.raises(InvalidFieldsError, match="events"):
        requests.event_payloads(fulfillment_service_pb2.FulfillRequest(events=events))


def test_gives_payloads_byte_for_byte_in_order() -> None:
    payloads = [b"\xff\x00", b"", b'{"id": "evt_1"}']
    events = [fulfillment_service_pb2.VerifiedEvent(payload=payload) for payload in payloads]
    assert requests.event_payloads(fulfillment_service_pb2.FulfillRequest(events=events)) == payloads


def test_urls_lead_to_named_hosts_alone_where_there_are_some() -> None:
    message = _valid()
    message.success_url, message.cancel_url = "https://shop.example/done", "https://evil.example/"
    assert requests.checkout_request(message).cancel_url == "https://evil.example/"
    with pytest.raises(InvalidFieldsError) as caught:
        requests.checkout_request(message, ("shop.example",))
    assert [violation.field for violation in caught.value.violations] == ["cancel_url"]
