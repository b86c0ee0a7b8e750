"""Features over all sources: boolean OR, max or sum, text by rank; ending one source never takes away what another gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from billing_service.domain import entitlement
from billing_service.domain.access import Access, SourceState, SourceType
from billing_service.domain.catalog import UNLIMITED, Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.frozen import replace
from billing_service.domain.grant import GrantFacts

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


# Of what the default plan gives, pro leaves one feature out, and no plan of another group names all of it.
MOVING = parse_catalog("""
default_plan = "free"
[features.storage]
name = "Storage"
type = "integer"
merge = "sum"
[features.forum]
name = "Forum"
type = "boolean"
[features.support]
name = "Support"
type = "text"
[plans.free]
name = "Free"
mode = "free"
group = "base"
features = { storage = 5, forum = true, support = "community" }
[plans.pro]
name = "Pro"
mode = "free"
group = "base"
rank = 10
features = { storage = 50, support = "mail" }
[plans.disk]
name = "Disk"
mode = "free"
group = "disks"
features = { storage = 10 }
""")


def lasting(plan_key: str, start: int, length: int | None) -> Access:
    end = None if length is None else NOW + timedelta(hours=start + length)
    return replace(holding("pro"), plan=MOVING.plans[plan_key], start=NOW + timedelta(hours=start), end=end)


def granted(number: int, start: int, length: int | None, *, override: bool = False, **what: object) -> Access:
    begins = NOW + timedelta(hours=start)
    end = None if length is None else begins + timedelta(hours=length)
    facts = GrantFacts(f"grant_{number}", begins, end, override, **what)  # type: ignore[arg-type]  # of either kind
    plan = MOVING.plans[facts.plan_key] if facts.plan_key else None
    return Access(SourceType.GRANT, plan, 1, None, None, SourceState.ACTIVE, begins, end, grant=facts)


def test_a_feature_that_comes_back_with_the_default_plan_says_when() -> None:
    """Also where several plans stand in the default plan's place: it comes as the last of them ends."""
    short, long, ever = lasting("pro", -1, 3), lasting("pro", -1, 7), lasting("pro", -1, None)
    for held, hours in (
        ([short], 2),
        ([short, long], 6),
        ([long, short, lasting("disk", -1, 3)], 6),
        ([short, ever], None),
    ):
        answer = folded(*held, catalog=MOVING)
        (forum,) = [one for one in answer.entitlements if one.feature_key == "forum"]
        assert (forum.value, forum.next_change_time) == (False, None if hours is None else NOW + timedelta(hours=hours))
        if hours is not None:
            assert values(folded(*held, catalog=MOVING, now=NOW + timedelta(hours=hours)))["forum"] is True


def test_a_feature_that_goes_with_the_default_plan_says_when() -> None:
    begins = granted(1, 3, None, plan_key="pro")
    changes = {one.feature_key: one.next_change_time for one in folded(begins, catalog=MOVING).entitlements}
    assert changes["forum"] == NOW + timedelta(hours=3)
    assert values(folded(begins, catalog=MOVING, now=NOW + timedelta(hours=3)))["forum"] is False


def test_what_an_override_holds_is_not_said_to_change_with_the_default_plan() -> None:
    override = granted(1, -1, None, override=True, feature_key="forum", value=False)
    changes = {
        one.feature_key: one.next_change_time
        for one in folded(override, lasting("pro", -1, 3), catalog=MOVING).entitlements
    }
    assert changes["forum"] is None


_WINDOW = {"start": st.integers(-3, 6), "length": st.none() | st.integers(1, 8)}
_HELD = st.lists(
    st.builds(lasting, st.sampled_from(["pro", "disk"]), st.integers(-3, 0), st.none() | st.integers(1, 8))
    | st.builds(granted, st.integers(0, 10**6), **_WINDOW, override=st.booleans(), plan_key=st.sampled_from(sorted(MOVING.plans)))
    | st.builds(granted, st.integers(0, 10**6), **_WINDOW, override=st.booleans(), feature_key=st.just("forum"), value=st.booleans()),
    max_size=4,
)  # fmt: skip


@for_any(_HELD)
def test_no_value_changes_by_time_before_its_own_next_change_time(held: list[Access]) -> None:
    answers = [folded(*held, catalog=MOVING, now=NOW + timedelta(hours=hours)) for hours in range(16)]
    for earlier, answer in enumerate(answers):
        for index, one in enumerate(answer.entitlements):
            later = [at for at in answers[earlier:] if at.entitlements[index].value != one.value]
            if later:
                assert one.next_change_time is not None, one
                assert one.next_change_time <= later[0].read_time, one


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
