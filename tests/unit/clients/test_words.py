from __future__ import annotations

from enum import StrEnum

import pytest
from billing.admin.v1 import customer_pb2, event_pb2, finding_pb2, operator_request_pb2, reconcile_pb2
from billing.v1.plan_pb2 import FeatureValue
from billing_cli import audit, events, findings, grants, quarantine, reconcile, source_screen, words
from billing_cli.failures import UsageError
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


@pytest.mark.parametrize(
    ("enum", "contract", "prefix"),
    [
        (findings.Kind, finding_pb2.Finding.Kind.DESCRIPTOR, "KIND_"),
        (events.Outcome, event_pb2.Event.Outcome.DESCRIPTOR, "OUTCOME_"),
        (audit.Operation, operator_request_pb2.OperatorRequest.Operation.DESCRIPTOR, "OPERATION_"),
        (quarantine.Reason, event_pb2.QuarantinedEvent.Reason.DESCRIPTOR, "REASON_"),
    ],
)
def test_a_filter_has_every_value_of_the_contract(enum: type[StrEnum], contract: EnumDescriptor, prefix: str) -> None:
    """A kind that the contract gets is one that an operator can ask for."""
    wanted = {value.name.removeprefix(prefix).lower() for value in contract.values} - {"unspecified"}
    assert {one.value for one in enum} == wanted
    assert all(contract.values_by_number[one.number].name == f"{prefix}{one.name}" for one in enum)  # type: ignore[attr-defined]


def test_every_ruling_of_the_table_has_its_words() -> None:
    assert source_screen._RULINGS.keys() == set(customer_pb2.Ruling.values()) - {0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=true", FeatureValue(bool_value=True)),
        ("a=false", FeatureValue(bool_value=False)),
        ("a=0", FeatureValue(integer_value=0)),
        ("a=9223372036854775807", FeatureValue(integer_value=2**63 - 1)),
        ("a=unlimited", FeatureValue(unlimited=True)),
        ("a=text:true", FeatureValue(text_value="true")),
        ("a=x=y", FeatureValue(text_value="x=y")),
    ],
)
def test_a_feature_is_written_as_key_and_value(text: str, value: FeatureValue) -> None:
    assert grants._feature(text).value == value


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=9223372036854775808", "a=" + "9" * 5_000])
def test_what_is_no_feature_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--feature"):
        grants._feature(text)


@pytest.mark.parametrize(("seconds", "said"), [(0, "none"), (90, "90 s"), (7 * 86_400, "7 d"), (36 * 3_600, "36 h")])
def test_a_policys_span_is_said_in_its_largest_whole_unit(seconds: int, said: str) -> None:
    assert words.duration(Duration(seconds=seconds)) == said


@pytest.mark.parametrize(("done", "share"), [(0, 0.0), (100, 0.0), (150, 0.5), (250, 1.0)])
def test_a_run_over_events_knows_how_far_it_is(done: int, share: float) -> None:
    run = reconcile_pb2.ReconcileRun(
        scope=reconcile_pb2.ReconcileRun.SCOPE_EVENTS,
        start_time=Timestamp(seconds=100),
        end_time=Timestamp(seconds=200),
        done_until_time=Timestamp(seconds=done),
    )
    assert reconcile._share(run) == share


def test_a_run_over_objects_does_not_pretend_to_know_how_far_it_is() -> None:
    run = reconcile_pb2.ReconcileRun(
        scope=reconcile_pb2.ReconcileRun.SCOPE_PURCHASES,
        start_time=Timestamp(seconds=100),
        end_time=Timestamp(seconds=200),
    )
    assert reconcile._share(run) is None
