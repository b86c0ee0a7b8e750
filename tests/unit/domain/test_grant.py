"""Grants: sources like what was bought, beside it or instead of it, that begin and end by time alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_service.domain.access import SourceState, SourceType, accesses
from billing_service.domain.catalog import UNLIMITED, Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.check import CheckReason, check
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.facts import CustomerFacts, PurchaseFacts
from billing_service.domain.frozen import replace
from billing_service.domain.grant import GrantFacts, fits
from billing_service.domain.plan_index import PlanIndex

CATALOG = parse_catalog((Path(__file__).parents[3] / "catalog.toml").read_text())
NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TEAM = PurchaseFacts("cs_team", "team", 4, created=int(NOW.timestamp()) - 60, paid_time=int(NOW.timestamp()) - 60)
PRO = replace(TEAM, checkout_session_id="cs_pro", plan_key="pro", quantity=1)


def feature(key: str, value: bool | int | str | None, *, override: bool = False, number: int = 1) -> GrantFacts:
    return GrantFacts(f"grant_{number}", NOW - DAY, None, override, feature_key=key, value=value)


def plan(key: str, quantity: int = 1, *, override: bool = False, end: datetime | None = None) -> GrantFacts:
    return GrantFacts(f"grant_{key}", NOW - DAY, end, override, plan_key=key, quantity=quantity)


def folded(facts: CustomerFacts, now: datetime = NOW, catalog: Catalog = CATALOG) -> Entitlements:
    plans = PlanIndex(catalog)
    return fold("ann", 1, accesses(facts, plans.of_price, plans.of_key), catalog, now)


def values(answer: Entitlements) -> dict[str, object]:
    return {one.feature_key: one.value for one in answer.entitlements}


def test_a_granted_plan_gives_what_a_bought_one_gives() -> None:
    answer = folded(CustomerFacts(grants=(plan("team", 3),)))
    assert (values(answer)["projects"], values(answer)["seats"]) == (UNLIMITED, 3)
    assert answer.plan_keys == ("team",)
    source = answer.entitlements[0].source
    assert source is not None
    assert (source.type, source.grant_id, source.stripe_id) == (SourceType.GRANT, "grant_team", None)


def test_a_granted_integer_is_added_where_the_catalog_adds_and_else_the_largest_counts() -> None:
    given = (feature("seats", 10), feature("projects", 40, number=2))
    answer = values(folded(CustomerFacts(purchases=(TEAM,), grants=given)))
    assert (answer["seats"], answer["projects"]) == (14, UNLIMITED)
    assert values(folded(CustomerFacts(purchases=(PRO,), grants=given)))["projects"] == 50


def test_a_granted_feature_leaves_the_default_plan_and_adds_nothing_to_the_plans() -> None:
    answer = folded(CustomerFacts(grants=(feature("export", value=True),)))
    assert answer.plan_keys == ("free",)
    assert (values(answer)["export"], values(answer)["projects"]) == (True, 3)


def test_a_granted_text_counts_above_every_plan() -> None:
    answer = folded(CustomerFacts(purchases=(TEAM,), grants=(feature("support", "white glove"),)))
    assert values(answer)["support"] == "white glove"


def test_an_override_counts_alone_for_its_feature_and_may_give_less() -> None:
    given = (feature("seats", 2, override=True), feature("api_access", value=False, override=True, number=2))
    answer = folded(CustomerFacts(purchases=(TEAM,), grants=given))
    assert (values(answer)["seats"], values(answer)["api_access"]) == (2, False)
    assert values(answer)["projects"] == UNLIMITED  # it names no other feature


def test_an_overriding_plan_counts_alone_for_the_features_that_it_has() -> None:
    answer = folded(CustomerFacts(purchases=(TEAM,), grants=(plan("pro", override=True),)))
    assert (values(answer)["projects"], values(answer)["seats"], values(answer)["support"]) == (50, 1, "e-mail")


def test_several_overrides_of_a_feature_are_merged_among_themselves() -> None:
    given = (feature("seats", 2, override=True), feature("seats", 5, override=True, number=2))
    assert values(folded(CustomerFacts(purchases=(TEAM,), grants=given)))["seats"] == 7


def test_a_grant_begins_and_ends_by_time_alone_and_says_when() -> None:
    grant = GrantFacts("grant_1", NOW + DAY, NOW + 2 * DAY, plan_key="pro")
    facts = CustomerFacts(grants=(grant,))
    states = [folded(facts, NOW + hours).sources[0].state for hours in (timedelta(), DAY, 2 * DAY)]
    assert states == [SourceState.SCHEDULED, SourceState.ENDING, SourceState.ENDED]
    changes = [folded(facts, NOW + after).next_change_time for after in (timedelta(), DAY, 2 * DAY)]
    assert changes == [NOW + DAY, NOW + 2 * DAY, None]
    features = {one.feature_key: one.next_change_time for one in folded(facts).entitlements}
    assert (features["projects"], features["export"]) == (NOW + DAY, None)


def test_what_the_catalog_does_not_have_is_unresolved_until_it_does() -> None:
    gone = (feature("gone", 1), feature("seats", "many", number=2), replace(plan("pro"), plan_key="gone"))
    answer = folded(CustomerFacts(grants=gone))
    assert {source.state for source in answer.sources[:3]} == {SourceState.UNRESOLVED}
    assert values(answer) == values(folded(CustomerFacts()))


def test_a_check_says_that_an_override_withholds_and_sells_nothing() -> None:
    answer = folded(CustomerFacts(purchases=(PRO,), grants=(feature("api_access", value=False, override=True),)))
    found = check(answer, "api_access", CATALOG, CATALOG.plans.keys())
    assert (found.allowed, found.reason, found.plan_keys) == (False, CheckReason.OVERRIDDEN, ())
    assert found.source is not None
    assert found.source.override


@pytest.mark.parametrize(
    ("key", "value", "holds"),
    [
        ("seats", 1, True), ("seats", UNLIMITED, True), ("seats", True, False), ("seats", "1", False),
        ("export", True, True), ("export", 1, False), ("support", "x", True), ("support", UNLIMITED, False),
        ("gone", 1, False),
    ],
)  # fmt: skip
def test_a_value_fits_only_the_type_that_the_catalog_declares(key: str, value: bool | int | str, holds: bool) -> None:
    assert fits(CATALOG.features.get(key), value) is holds


_GRANTS = st.lists(
    st.builds(
        lambda number, given, override, start, length: GrantFacts(
            f"grant_{number}",
            NOW + timedelta(hours=start),
            None if length is None else NOW + timedelta(hours=start + length),
            override,
            **given,
        ),
        st.integers(0, 10**6),
        st.sampled_from(
            [
                {"plan_key": "pro"}, {"plan_key": "team", "quantity": 3}, {"plan_key": "gone"},
                {"feature_key": "seats", "value": 4}, {"feature_key": "seats", "value": None},
                {"feature_key": "api_access", "value": False}, {"feature_key": "export", "value": True},
            ]
        ),
        st.booleans(),
        st.integers(-3, 3),
        st.none() | st.integers(1, 4),
    ),
    max_size=4,
    unique_by=lambda grant: grant.grant_id,
)  # fmt: skip


@given(_GRANTS, st.sampled_from([(), (TEAM,), (PRO,), (TEAM, PRO)]), st.integers(-4, 8))
def test_the_order_in_which_grants_are_held_changes_nothing(
    grants: list[GrantFacts], purchases: tuple[PurchaseFacts, ...], hours: int
) -> None:
    now = NOW + timedelta(hours=hours)
    answers = [
        folded(CustomerFacts(purchases=bought, grants=tuple(some)), now)
        for some in permutations(grants)
        for bought in (purchases, purchases[::-1])
    ]
    assert all(answer == answers[0] for answer in answers)


@given(_GRANTS, st.integers(-4, 8))
def test_nothing_changes_before_the_time_that_is_told(grants: list[GrantFacts], hours: int) -> None:
    now = NOW + timedelta(hours=hours)
    facts = CustomerFacts(purchases=(PRO,), grants=tuple(grants))
    answer = folded(facts, now)
    last = (answer.next_change_time or now + timedelta(days=30)) - timedelta(microseconds=1)
    assert values(folded(facts, last)) == values(answer)
    for one in answer.entitlements:
        until = (one.next_change_time or now + timedelta(days=30)) - timedelta(microseconds=1)
        assert values(folded(facts, until))[one.feature_key] == one.value
