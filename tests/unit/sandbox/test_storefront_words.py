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
    ("state", "plans", "title"),
    [
        (_Session.STATE_OPEN, ["free"], "Confirming your payment…"),
        (_Session.STATE_OPEN, ["pro"], "Confirming your payment…"),
        (_Session.STATE_COMPLETE, ["free"], "Confirming your payment…"),
        (_Session.STATE_COMPLETE, ["pro"], "Thank you!"),
        (_Session.STATE_PROCESSING, ["free"], "Payment on its way"),
        (_Session.STATE_PAYMENT_FAILED, ["free"], "The payment failed"),
        (_Session.STATE_EXPIRED, ["free"], "This checkout has expired"),
    ],
)
def test_a_purchase_is_thanked_for_only_when_the_plan_is_there(
    state: checkout_pb2.CheckoutSession.State.ValueType, plans: list[str], title: str
) -> None:
    """A complete session whose plan is not entitled yet is still being confirmed."""
    session = _Session(state=state, plan_key="pro")
    assert words.notice_of_checkout(session, "Pro", plans).title == title


def test_somebody_elses_purchase_is_no_purchase() -> None:
    assert words.notice_of_checkout(None, "", ["free"]).tone is Tone.BAD


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
