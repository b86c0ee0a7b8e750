"""Features over all sources: boolean OR, max or sum, text by rank; ending one source never takes away what another gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_service.domain import entitlement
from billing_service.domain.access import Access, SourceState, SourceType
from billing_service.domain.catalog import UNLIMITED, Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.frozen import replace

CATALOG = parse_catalog((Path(__file__).parents[3] / "catalog.toml").read_text())
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def holding(plan_key: str, *, quantity: int = 1, days: int | None = 10) -> Access:
    return Access(
        type=SourceType.SUBSCRIPTION,
        plan=CATALOG.plans[plan_key],
        quantity=quantity,
        stripe_id=f"si_{plan_key}",
        stripe_subscription_id="sub_1",
        state=SourceState.ACTIVE,
        start=NOW - timedelta(days=1),
        end=None if days is None else NOW + timedelta(days=days),
    )


def folded(*given: Access, catalog: Catalog = CATALOG, now: datetime = NOW) -> Entitlements:
    return fold("ann", 1, given, catalog, now)


def values(answer: Entitlements) -> dict[str, object]:
    return {e.feature_key: e.value for e in answer.entitlements}


def test_who_has_bought_nothing_has_the_default_plan() -> None:
    answer = folded()
    assert answer.plan_keys == ("free",)
    assert values(answer) == {
        "projects": 3, "seats": 1, "api_access": False, "export": False, "support": "community",
    }  # fmt: skip
    assert answer.next_change_time is None


def test_a_plan_of_the_group_replaces_the_default_plan() -> None:
    assert folded(holding("pro")).plan_keys == ("pro",)
    assert folded(holding("export_pass")).plan_keys == ("export_pass", "free")


def test_integers_take_the_largest_or_the_sum_and_the_default_plan_adds_to_no_sum() -> None:
    answer = folded(holding("pro"), holding("team", quantity=5))
    assert (values(answer)["projects"], values(answer)["seats"]) == (UNLIMITED, 6)
    assert values(folded(holding("export_pass")))["seats"] == 1


def test_a_scaled_feature_is_multiplied_by_the_quantity_and_never_leaves_int64() -> None:
    assert values(folded(holding("team", quantity=7)))["seats"] == 7
    vast = replace(CATALOG.plans["team"], features={"seats": 2**40})
    assert values(folded(replace(holding("team", quantity=2**40), plan=vast)))["seats"] == 2**63 - 1


def test_text_goes_by_the_rank_of_the_plan() -> None:
    assert values(folded(holding("team"), holding("pro")))["support"] == "priority"


def test_ending_one_source_never_takes_away_what_another_gives() -> None:
    later = NOW + timedelta(days=5)
    answer = folded(holding("team", days=3), holding("pro"), now=later)
    assert values(answer)["projects"] == 50


def test_it_says_when_time_alone_changes_a_value() -> None:
    answer = folded(holding("pro", days=3), holding("export_pass", days=9))
    changes = {e.feature_key: e.next_change_time for e in answer.entitlements}
    assert changes["projects"] == NOW + timedelta(days=3)
    assert changes["export"] == NOW + timedelta(days=9)
    assert answer.next_change_time == NOW + timedelta(days=3)


def test_a_feature_that_several_give_may_change_when_the_first_of_them_does() -> None:
    lasting, ending = holding("pro", days=9), holding("team", days=3)
    for given in ((lasting, ending), (ending, lasting), (holding("pro", days=None), ending)):
        changes = {e.feature_key: e.next_change_time for e in folded(*given).entitlements}
        assert changes["projects"] == NOW + timedelta(days=3)


def test_a_sum_is_put_down_to_the_first_that_was_bought() -> None:
    (seats,) = [e for e in folded(holding("pro"), holding("team")).entitlements if e.feature_key == "seats"]
    assert seats.source is not None
    assert seats.source.plan_key == "pro"


@pytest.mark.parametrize("plan_key", CATALOG.plans)
@pytest.mark.parametrize("quantity", [1, 7, 2**40])
def test_one_source_alone_gives_what_the_merge_of_one_gives(plan_key: str, quantity: int) -> None:
    """The short way that nearly everybody's answer takes is the same answer."""
    plan = replace(
        CATALOG.plans[plan_key],
        features={**CATALOG.plans[plan_key].features, "seats": 2**30},
        scales=frozenset({"seats"}),
    )
    catalog = replace(CATALOG, default_plan=None)
    given = replace(holding(plan_key, quantity=quantity), plan=plan)
    live = [entitlement._live(given, given.at(NOW), given.next_change(NOW))]
    alone = folded(given, catalog=catalog).entitlements
    assert list(alone) == entitlement._merged(catalog.features.values(), live)
    for feature, one in zip(catalog.features.values(), alone, strict=True):
        if feature.feature_key in plan.features:
            assert entitlement._MERGES[feature.type](feature, live) == (one.value, live[0])
