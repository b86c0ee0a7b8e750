"""What the storefront tells people."""

from __future__ import annotations

import grpc
import pytest
from billing.v1 import checkout_pb2, entitlement_pb2, error_reason_pb2, plan_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from sandbox.storefront import words
from sandbox.storefront.billing import BillingError
from sandbox.storefront.words import Tone

_Source = entitlement_pb2.Source
_Session = checkout_pb2.CheckoutSession
_THIRD_OF_MARCH = Timestamp(seconds=1_772_496_000)


@pytest.mark.parametrize(
    "name", [value.name for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values if value.number]
)
def test_every_reason_of_the_contract_is_told_in_a_sentence_without_its_name(name: str) -> None:
    notice = words.notice_of_error(BillingError(grpc.StatusCode.UNAVAILABLE, name.removeprefix("ERROR_REASON_")))
    assert notice.tone is Tone.BAD
    assert notice.text.endswith(".")
    assert "_" not in notice.text


def test_a_reason_of_the_future_is_told_by_its_code() -> None:
    """An unknown reason under UNAVAILABLE means: try again."""
    error = BillingError(grpc.StatusCode.UNAVAILABLE, "SOMETHING_NEW")
    assert (words.notice_of_error(error).title, words.http_status(error)) == ("Please try again", 503)
    assert words.http_status(BillingError(grpc.StatusCode.INTERNAL, "SOMETHING_NEW")) == 500


@pytest.mark.parametrize(
    ("outcome", "title"),
    [
        (entitlement_pb2.CHECKOUT_OUTCOME_STILL_OPEN, "Confirming your payment…"),
        (entitlement_pb2.CHECKOUT_OUTCOME_UNCONFIRMED, "Confirming your payment…"),
        (entitlement_pb2.CHECKOUT_OUTCOME_ENTITLED, "Thank you!"),
        (entitlement_pb2.CHECKOUT_OUTCOME_PENDING_PAYMENT, "Payment on its way"),
        (entitlement_pb2.CHECKOUT_OUTCOME_PAYMENT_FAILED, "The payment failed"),
        (entitlement_pb2.CHECKOUT_OUTCOME_EXPIRED, "This checkout has expired"),
        (entitlement_pb2.CHECKOUT_OUTCOME_NOT_ENTITLED, "No longer active"),
    ],
)
def test_a_purchase_is_thanked_for_only_when_it_is_entitled(
    outcome: entitlement_pb2.CheckoutOutcome.ValueType, title: str
) -> None:
    notice = words.notice_of_checkout(outcome, "Pro")
    assert notice.title == title
    assert "{" not in notice.text
    assert words.settled(outcome) is (title != "Confirming your payment…")


def test_somebody_elses_purchase_is_no_purchase() -> None:
    assert words.notice_of_checkout(None, "").tone is Tone.BAD


@pytest.mark.parametrize("state", [state for state in _Source.State.values() if state])
def test_every_state_of_a_source_has_words(state: entitlement_pb2.Source.State.ValueType) -> None:
    told = words.state_words(_Source(type=_Source.TYPE_SUBSCRIPTION, state=state, end_time=_THIRD_OF_MARCH))
    assert told
    assert "STATE" not in told


def test_dates_are_in_utc_and_do_not_break() -> None:
    assert words.date_words(_THIRD_OF_MARCH).replace("\N{NO-BREAK SPACE}", " ") == "3 March 2026"


@pytest.mark.parametrize(
    ("value", "told", "on"),
    [
        (plan_pb2.FeatureValue(bool_value=True), "Included", True),
        (plan_pb2.FeatureValue(bool_value=False), "Not included", False),
        (plan_pb2.FeatureValue(integer_value=12_000), "12,000", True),
        (plan_pb2.FeatureValue(integer_value=0), "0", False),
        (plan_pb2.FeatureValue(unlimited=True), "Unlimited", True),
        (plan_pb2.FeatureValue(text_value="priority"), "Priority", True),
        (plan_pb2.FeatureValue(text_value=""), "–", False),
    ],
)
def test_values_are_told_in_a_word(value: plan_pb2.FeatureValue, told: str, on: bool) -> None:
    assert (words.value_words(value), words.is_on(value)) == (told, on)


def test_a_feature_says_which_plan_gives_it_and_until_when() -> None:
    source = _Source(type=_Source.TYPE_SUBSCRIPTION, state=_Source.STATE_ACTIVE, plan_key="pro")
    item = entitlement_pb2.Entitlement(
        feature_key="projects",
        value=plan_pb2.FeatureValue(integer_value=50),
        source=source,
        next_change_time=_THIRD_OF_MARCH,
    )
    (fact,) = words.feature_facts([item], {"projects": "Projects"}, {"pro": "Pro"})
    assert (fact.name, fact.value, fact.on) == ("Projects", "50", True)
    assert fact.why.replace("\N{NO-BREAK SPACE}", " ") == "from Pro until 3 March 2026"
