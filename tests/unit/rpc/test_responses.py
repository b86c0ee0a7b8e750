"""What the domain says reaches the wire whole: every value has its word in the contract."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from billing.internal.v1 import fulfillment_service_pb2
from billing.v1 import checkout_pb2, entitlement_pb2, plan_pb2
from billing_client import Options
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_service.domain.access import Source, SourceState, SourceType
from billing_service.domain.catalog import UNLIMITED, FeatureValue, PlanMode
from billing_service.domain.catalog_file import (
    MAX_CATALOG_CHARS,
    MAX_LISTING_BYTES,
    CatalogError,
    listing_bytes,
    parse_catalog,
)
from billing_service.domain.check import CheckReason
from billing_service.domain.checkout import CheckoutSession, CheckoutState, CreatedCheckout
from billing_service.domain.checkout_outcome import CheckoutOutcome
from billing_service.domain.entitlement import Entitlement, Entitlements, fold
from billing_service.domain.errors import InvalidFieldsError
from billing_service.domain.frozen import replace
from billing_service.flows.fulfill import EventResult, Outcome
from billing_service.flows.list_plans import PlanListing
from billing_service.rpc import entitlement_responses, entitlement_wire, responses
from billing_service.rpc.server import MAX_MESSAGE_BYTES

_NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
_CATALOG = Path(__file__).parents[3] / "catalog.toml"
_ANSWER = Entitlements("u1", 0, (), (), (), _NOW, None, "hash")
_SOURCES = {
    "bought": Source(SourceType.SUBSCRIPTION, SourceState.ACTIVE, "pro", 1, "si_1", "sub_1", _NOW, _NOW),
    "many": Source(SourceType.PURCHASE, SourceState.ENDING, "team", 1_000_000, "cs_" + "x" * 200, None, _NOW, None),
    "given": Source(
        SourceType.GRANT, SourceState.SCHEDULED, None, 1, None, None, _NOW, None, "grant_" + "0" * 32, override=True
    ),
    "default": Source(SourceType.DEFAULT_PLAN, SourceState.ACTIVE, "free", 1, None, None, None, None),
}
_TABLES: list[tuple[type[StrEnum], Mapping[Any, int], Any, str]] = [
    (CheckoutState, responses.CHECKOUT_STATES, checkout_pb2.CheckoutSession.State, "STATE_"),
    (SourceType, entitlement_wire.SOURCE_TYPES, entitlement_pb2.Source.Type, "TYPE_"),
    (SourceState, entitlement_wire.SOURCE_STATES, entitlement_pb2.Source.State, "STATE_"),
    (PlanMode, responses.PLAN_MODES, plan_pb2.PlanMode, "PLAN_MODE_"),
    (CheckReason, entitlement_responses.REASONS, entitlement_pb2.CheckEntitlementResponse.Reason, "REASON_"),
    (CheckoutOutcome, entitlement_responses.OUTCOMES, entitlement_pb2.CheckoutOutcome, "CHECKOUT_OUTCOME_"),
    (Outcome, responses.OUTCOMES, fulfillment_service_pb2.FulfillResult.Outcome, "OUTCOME_"),
]


@pytest.mark.parametrize(
    ("domain", "table", "wire", "prefix"), _TABLES, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_value_of_the_domain_is_the_one_of_the_same_name_on_the_wire(
    domain: type[StrEnum], table: Mapping[Any, int], wire: Any, prefix: str
) -> None:
    assert {member: wire.Name(table[member]) for member in domain} == {m: f"{prefix}{m.name}" for m in domain}
    assert set(table.values()) == set(wire.values()) - {0}


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "bool_value"), (False, "bool_value"), (0, "integer_value"), (UNLIMITED, "unlimited"), ("", "text_value")],
)
def test_a_feature_value_keeps_its_type(value: FeatureValue, kind: str) -> None:
    assert entitlement_wire.feature_value(value).WhichOneof("kind") == kind


def _session(url: str | None) -> CheckoutSession:
    return CheckoutSession(
        checkout_session_id="cs_1",
        url=url,
        state=CheckoutState.OPEN,
        expire_time=_NOW + timedelta(hours=1),
        create_time=_NOW,
        customer_id="u1",
        plan_key="pro",
        price_key="monthly",
        quantity=3,
    )


def test_a_checkout_session_reaches_the_wire_whole() -> None:
    message = responses.create_checkout_session_response(
        CreatedCheckout(_session("https://pay.example/1"), reused=True)
    )
    session = message.checkout_session
    assert message.reused
    assert (session.checkout_session_id, session.url, session.quantity) == ("cs_1", "https://pay.example/1", 3)
    assert (session.customer_id, session.plan_key, session.price_key) == ("u1", "pro", "monthly")
    assert session.create_time.ToDatetime(UTC) == _NOW
    assert session.expire_time.ToDatetime(UTC) == _NOW + timedelta(hours=1)


def test_a_session_that_is_not_open_has_no_url() -> None:
    assert not responses.get_checkout_session_response(_session(None)).checkout_session.url


def test_entitlements_reach_the_wire_whole() -> None:
    source = Source(SourceType.SUBSCRIPTION, SourceState.GRACE, "pro", 2, "si_1", "sub_1", _NOW, None)
    entitlement = Entitlement("projects", UNLIMITED, source, _NOW + timedelta(days=1))
    off = Entitlement("export", value=False, source=None, next_change_time=None)
    message = responses.get_entitlements_response(
        Entitlements("u1", 4, (entitlement, off), (source,), ("pro",), _NOW, _NOW + timedelta(days=1), "v1")
    )
    first, second = message.entitlements
    assert (message.customer_id, message.revision, message.catalog_version) == ("u1", 4, "v1")
    assert (list(message.plan_keys), message.read_time.ToDatetime(UTC)) == (["pro"], _NOW)
    assert (first.feature_key, first.value.unlimited, first.source) == ("projects", True, message.sources[0])
    assert first.source.stripe_subscription_id == "sub_1"
    assert first.source.HasField("start_time")
    assert not first.source.HasField("end_time")
    assert not second.HasField("source")
    assert not second.HasField("next_change_time")


def test_a_batch_that_no_message_can_carry_says_what_to_ask_for() -> None:
    """GRPC would fail the call in the server, or in the client, after all the work, and not say what helps."""
    source = _source("pro", "si_1ABCDEFGHIJKLMNOPQRSTUVW")

    def answers(customers: int, features: int) -> list[Entitlements]:
        lines = tuple(Entitlement(f"feature_number_{n}", True, source, _NOW) for n in range(features))
        return [
            Entitlements(f"customer_{n}", 1, lines, (source,), ("pro",), _NOW, _NOW, "v1") for n in range(customers)
        ]

    assert len(entitlement_responses.batch_response(answers(200, 150)).responses) == 200
    with pytest.raises(InvalidFieldsError) as raised:
        entitlement_responses.batch_response(answers(200, 500))
    (violation,) = raised.value.violations
    assert violation.field == "requests"
    few = int(violation.description.partition("about ")[2].partition(" ")[0])
    assert len(entitlement_responses.batch_response(answers(few, 500)).responses) == few
    assert Options(["127.0.0.1:1"]).max_message_bytes >= MAX_MESSAGE_BYTES  # what is sent is taken


def test_a_time_without_a_zone_does_not_leave_the_service() -> None:
    with pytest.raises(ValueError, match="zone"):
        responses.timestamp(_NOW.replace(tzinfo=None))


def test_the_plans_reach_the_wire_in_the_order_of_the_catalog() -> None:
    catalog = parse_catalog(_CATALOG.read_text(encoding="utf-8"))
    listing = PlanListing(tuple(catalog.plans.values()), frozenset({("pro", "yearly")}), catalog)
    message = responses.list_plans_response(listing)
    plans = {plan.plan_key: plan for plan in message.plans}
    assert list(plans) == ["free", "pro", "team", "export_pass"]
    assert message.catalog_version == catalog.version
    assert [plan.is_default for plan in message.plans] == [True, False, False, False]
    assert [(price.price_key, price.available) for price in plans["pro"].prices] == [
        ("monthly", False),
        ("yearly", True),
    ]
    assert [feature.feature_key for feature in plans["team"].features] == ["projects", "seats", "api_access", "support"]
    assert [feature.scales_with_quantity for feature in plans["team"].features] == [False, True, False, False]
    assert plans["team"].quantity_allowed
    assert plans["export_pass"].duration.ToTimedelta() == timedelta(days=30)
    assert not plans["pro"].HasField("duration")


def test_the_plans_say_of_every_feature_what_a_stranger_has() -> None:
    """Also of one that is in no plan, which only grants give; and it is what a read answers of a customer who is not known."""
    catalog = parse_catalog(
        _CATALOG.read_text(encoding="utf-8") + '\n[features.beta]\nname = "Beta"\ntype = "boolean"\n'
    )
    message = responses.list_plans_response(PlanListing(tuple(catalog.plans.values()), frozenset(), catalog))
    read = responses.get_entitlements_response(fold("stranger", 0, (), catalog, _NOW))
    assert [(one.feature_key, one.value) for one in message.default_features] == [
        (one.feature_key, one.value) for one in read.entitlements
    ]
    assert (message.default_features[-1].feature_key, message.default_features[-1].value.bool_value) == ("beta", False)
    assert message.default_features[-1].value.HasField("bool_value")


def test_results_keep_their_order_and_an_unread_id_is_empty() -> None:
    results = [EventResult("evt_1", Outcome.APPLIED), EventResult(None, Outcome.QUARANTINED)]
    message = responses.fulfill_response(results)
    assert [(result.event_id, result.outcome) for result in message.results] == [("evt_1", 1), ("", 5)]


def test_an_answer_is_on_the_wire_what_its_messages_would_be() -> None:
    """It is put together from bytes, and is the same as if each entitlement had been made as a message."""
    long = "x" * 300  # its length takes two bytes
    sources = (_source("pro", "si_1"), _source("team", long))
    values: tuple[FeatureValue, ...] = (True, 1, False, 0, UNLIMITED, "unlimited", "", long, 2**63 - 1)
    deciders = (*sources, None)
    entitlements = tuple(
        Entitlement("feature", value, deciders[number % 3], _NOW if number % 2 else None)
        for number, value in enumerate(values)
    )
    answer = Entitlements("u1", 4, entitlements, sources, ("team", "pro"), _NOW, None, "hash")
    message = responses.get_entitlements_response(answer)
    assert message == _of_messages(answer)


@settings(max_examples=200)
@given(
    facts=st.lists(st.sampled_from(sorted(_SOURCES)), max_size=3),
    customer_id=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=150),
    revision=st.integers(0, 2**63 - 1),
    moment=st.datetimes(timezones=st.just(UTC)),
)
def test_every_answer_is_the_one_that_messages_would_make(
    facts: list[str], customer_id: str, revision: int, moment: datetime
) -> None:
    """Whatever sources somebody has, at whatever time: not only the whole, each byte of it."""
    made = replace(_ANSWER, sources=tuple(_SOURCES[name] for name in facts), customer_id=customer_id, revision=revision)
    features = [Entitlement(name, 7, source, moment) for name, source in _SOURCES.items()]  # also of sources not listed
    answer = replace(made, entitlements=tuple(features), read_time=moment, next_change_time=moment, facts_time=moment)
    message, plain = responses.get_entitlements_response(answer), _of_messages(answer)
    assert message == plain
    assert message.SerializeToString(deterministic=True) == plain.SerializeToString(deterministic=True)


@pytest.mark.parametrize("seconds", [-1, 0, 1, 2**28 - 1, 2**28, 1_790_000_000, 2**35 - 1, 2**35])
def test_a_whole_second_is_written_as_protobuf_writes_it(seconds: int) -> None:
    """Those of our days have a shorter way; where it begins and where it ends nothing differs."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    answer = replace(_ANSWER, read_time=moment, next_change_time=moment)
    plain = _of_messages(answer).SerializeToString(deterministic=True)
    assert responses.get_entitlements_response(answer).SerializeToString(deterministic=True) == plain


def test_an_answer_with_a_time_without_a_zone_does_not_leave() -> None:
    with pytest.raises(ValueError, match="zone"):
        responses.get_entitlements_response(replace(_ANSWER, read_time=_NOW.replace(tzinfo=None)))


def _of_messages(answer: Entitlements) -> entitlement_pb2.GetEntitlementsResponse:
    """Build an answer the plain way."""
    return entitlement_pb2.GetEntitlementsResponse(
        customer_id=answer.customer_id,
        revision=answer.revision,
        entitlements=[
            entitlement_pb2.Entitlement(
                feature_key=one.feature_key,
                value=entitlement_wire.feature_value(one.value),
                source=None if one.source is None else responses.source_message(one.source),
                next_change_time=responses.timestamp(one.next_change_time),
            )
            for one in answer.entitlements
        ],
        sources=[responses.source_message(source) for source in answer.sources],
        plan_keys=answer.plan_keys,
        read_time=responses.timestamp(answer.read_time),
        next_change_time=responses.timestamp(answer.next_change_time),
        catalog_version=answer.catalog_version,
        facts_time=responses.timestamp(answer.facts_time),
    )


def _source(plan_key: str, stripe_id: str) -> Source:
    return Source(SourceType.SUBSCRIPTION, SourceState.ACTIVE, plan_key, 1, stripe_id, "sub_1", _NOW, None)


@pytest.mark.parametrize("moment", [_NOW, datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_time_is_what_protobuf_makes_of_it(moment: datetime) -> None:
    plain = Timestamp()
    plain.FromDatetime(moment)
    assert responses.timestamp(moment) == plain


def catalog_of(plans: int, features: int, name: str, value: str, kind: str) -> str:
    """Write a catalog in which each plan gives each feature, and all but the default one have two prices."""
    given = "{ " + ", ".join(f"f{number} = {value}" for number in range(features)) + " }"
    tables = [f'[features.f{number}]\nname = "{name}"\ntype = "{kind}"' for number in range(features)]
    for number in range(plans):
        prices = [f'{{ key = "m{turn}", lookup_key = "p{number}_{turn}", text = "{name}" }}' for turn in range(2)]
        sold = f'mode = "subscription"\nprices = [{", ".join(prices)}]' if number else 'mode = "free"'
        tables.append(f'[plans.p{number}]\nname = "{name}"\ndescription = "{name}"\n{sold}\nfeatures = {given}')
    return "\n".join(['default_plan = "p0"', *tables])


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("x", "true", "boolean"),
        ("ü" * 250, "1000000000000", "integer"),
        ("x", '"unlimited"', "integer"),
        ("x", f'"{"💳" * 200}"', "text"),
    ],
)
@pytest.mark.parametrize(("plans", "features"), [(1, 1), (1, 300), (300, 1), (30, 30)])
def test_no_listing_is_larger_than_what_its_catalog_was_admitted_by(
    plans: int, features: int, name: str, value: str, kind: str
) -> None:
    catalog = parse_catalog(catalog_of(plans, features, name, value, kind))
    bought = frozenset((plan.plan_key, price.price_key) for plan in catalog.plans.values() for price in plan.prices)
    answer = responses.list_plans_response(PlanListing(tuple(catalog.plans.values()), bought, catalog))
    assert answer.ByteSize() <= listing_bytes(catalog)


def test_no_catalog_is_admitted_whose_listing_is_too_large_for_one_message() -> None:
    """The start says so: ListPlans would fail of it at each call, and nobody could tell why."""
    assert MAX_LISTING_BYTES <= MAX_MESSAGE_BYTES
    text = catalog_of(100, 300, "x" * 200, "true", "boolean")
    assert len(text) < MAX_CATALOG_CHARS
    with pytest.raises(CatalogError, match=r"plans and what they give take .* bytes to list"):
        parse_catalog(text)
    parse_catalog(catalog_of(100, 300, "x" * 40, "true", "boolean"))
