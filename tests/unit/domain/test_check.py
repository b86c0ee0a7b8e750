"""One feature: allowed or not, why, until when, and what to buy otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from billing_service.domain.access import Access, SourceState, SourceType
from billing_service.domain.catalog import UNLIMITED, FeatureType, IntegerMerge
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.check import Check, CheckReason, check
from billing_service.domain.entitlement import fold
from billing_service.domain.frozen import replace
from billing_service.domain.grant import GrantFacts

CATALOG = parse_catalog((Path(__file__).parents[3] / "catalog.toml").read_text())
NOW = datetime(2026, 11, 1, tzinfo=UTC)
FOR_SALE = frozenset({"pro", "team", "export_pass"})


def holding(plan_key: str, state: SourceState = SourceState.ACTIVE) -> Access:
    return Access(
        type=SourceType.SUBSCRIPTION,
        plan=CATALOG.plans[plan_key],
        quantity=1,
        stripe_id=f"si_{plan_key}_{state}",
        stripe_subscription_id="sub_1",
        state=state,
        start=NOW - timedelta(days=1),
        end=NOW + timedelta(days=10),
    )


# Two groups and add-ons, each kind of merge, and plans of one rank. free is the default plan.
SOLD = parse_catalog("""
default_plan = "free"
[features.storage]
name = "Storage"
type = "integer"
merge = "sum"
[features.projects]
name = "Projects"
type = "integer"
[features.api]
name = "API"
type = "boolean"
[features.support]
name = "Support"
type = "text"
[features.forum]
name = "Forum"
type = "boolean"
[plans.free]
name = "Free"
mode = "free"
group = "base"
features = { storage = 5, projects = 3, support = "", forum = true }
[plans.team]
name = "Team"
mode = "subscription"
group = "base"
rank = 5
features = { storage = 20, projects = 50, support = "" }
[[plans.team.prices]]
key = "m"
lookup_key = "team"
[plans.pro]
name = "Pro"
mode = "subscription"
group = "base"
rank = 10
features = { storage = 50, projects = 40, api = true, support = "mail", forum = true }
[[plans.pro.prices]]
key = "m"
lookup_key = "pro"
[plans.extra]
name = "Extra"
mode = "subscription"
features = { storage = 2, projects = 4, support = "chat" }
[[plans.extra.prices]]
key = "m"
lookup_key = "extra"
[plans.disk]
name = "Disk"
mode = "subscription"
group = "disks"
rank = 5
features = { storage = 10, projects = "unlimited", api = true, support = "chat" }
[[plans.disk.prices]]
key = "m"
lookup_key = "disk"
""")
SUBSCRIBED = {
    key: replace(holding("pro"), plan=plan, stripe_id=f"si_{key}") for key, plan in SOLD.plans.items() if key != "free"
}


def granted(*, override: bool = False, **what: object) -> Access:
    facts = GrantFacts("grant_1", NOW - timedelta(days=2), None, override, **what)  # type: ignore[arg-type]  # of either kind
    plan = SOLD.plans[facts.plan_key] if facts.plan_key else None
    return Access(SourceType.GRANT, plan, 1, None, None, SourceState.ACTIVE, facts.start, None, grant=facts)


def checked(feature_key: str, *given: Access, for_sale: frozenset[str] = FOR_SALE) -> Check:
    return check(fold("ann", 3, given, CATALOG, NOW), feature_key, CATALOG, for_sale)


def test_what_a_plan_gives_is_allowed_until_the_plan_may_end() -> None:
    found = checked("api_access", holding("pro"))
    assert (found.allowed, found.value, found.reason) == (True, True, CheckReason.GIVEN)
    assert found.source is not None
    assert (found.source.plan_key, found.until) == ("pro", NOW + timedelta(days=10))
    assert (found.plan_keys, found.revision, found.catalog_version) == ((), 3, CATALOG.version)


def test_what_no_plan_of_theirs_has_is_refused_with_the_plans_that_would_give_it() -> None:
    found = checked("api_access")
    assert (found.allowed, found.value, found.reason) == (False, False, CheckReason.NOT_IN_PLAN)
    assert (found.source, found.plan_keys) == (None, ("pro", "team"))
    assert checked("export", holding("pro")).plan_keys == ("export_pass",)


def test_a_plan_that_cannot_be_bought_now_is_not_offered() -> None:
    assert checked("api_access", for_sale=frozenset({"team"})).plan_keys == ("team",)


def test_a_limit_names_the_plans_that_give_more_of_it() -> None:
    assert checked("projects").plan_keys == ("pro", "team")
    assert checked("projects", holding("pro")).plan_keys == ("team",)
    assert checked("projects", holding("team")).value is UNLIMITED
    assert checked("projects", holding("team")).plan_keys == ()
    assert checked("seats", holding("team")).plan_keys == ("team",)  # more of them can be bought


def test_a_text_is_allowed_where_there_is_one() -> None:
    found = checked("support")
    assert (found.allowed, found.value, found.plan_keys) == (True, "community", ())


def test_grace_is_allowed_and_said() -> None:
    assert checked("api_access", holding("pro", SourceState.GRACE)).reason is CheckReason.GIVEN_IN_GRACE


def in_grace(plan_key: str, *others: Access) -> tuple[Access, ...]:
    """Give a subscription in grace for three days, the oldest of those held."""
    start, end = NOW - timedelta(days=5), NOW + timedelta(days=3)
    return replace(SUBSCRIBED[plan_key], state=SourceState.GRACE, start=start, end=end), *others


def reason_of(feature_key: str, *held: Access) -> CheckReason:
    return check(fold("ann", 1, held, SOLD, NOW), feature_key, SOLD, SUBSCRIBED.keys()).reason


def test_grace_is_said_only_of_what_ends_with_it() -> None:
    """Not where another source gives as much: the value stays then, whatever comes of the payment."""
    alone, both = in_grace("pro"), in_grace("pro", SUBSCRIBED["disk"])
    assert (reason_of("api", *alone), reason_of("api", *both)) == (CheckReason.GIVEN_IN_GRACE, CheckReason.GIVEN)
    assert reason_of("projects", *both) is CheckReason.GIVEN  # disk's are unlimited
    # 4 are left of 40.
    assert reason_of("projects", *in_grace("pro", SUBSCRIBED["extra"])) is CheckReason.GIVEN_IN_GRACE
    assert reason_of("storage", *both) is CheckReason.GIVEN_IN_GRACE  # 10 are left of 60
    assert reason_of("support", *both) is CheckReason.GIVEN_IN_GRACE  # by chat, not by mail
    assert reason_of("api", *in_grace("pro", granted(feature_key="api", value=True))) is CheckReason.GIVEN
    assert reason_of("api", *in_grace("pro", *in_grace("disk"))) is CheckReason.GIVEN_IN_GRACE


def test_grace_is_not_said_of_what_the_default_plan_gives_afterwards() -> None:
    assert reason_of("forum", *in_grace("pro")) is CheckReason.GIVEN
    assert reason_of("projects", *in_grace("pro")) is CheckReason.GIVEN_IN_GRACE  # 3 are left of 40
    aside = granted(plan_key="team")  # which keeps the default plan from coming, and has no forum
    assert reason_of("forum", *in_grace("pro", aside)) is CheckReason.GIVEN_IN_GRACE


_KEPT = st.lists(
    st.sampled_from([*SUBSCRIBED.values(), granted(plan_key="team"), granted(feature_key="api", value=True)]),
    max_size=3,
)


@for_any(st.sampled_from(sorted(SUBSCRIBED)), _KEPT, st.sampled_from(sorted(SOLD.features)))
def test_what_is_said_to_hang_on_a_payment_is_what_is_less_without_it(
    plan_key: str, kept: list[Access], feature_key: str
) -> None:
    """And a switch that is on, and a limit of which the largest counts, is said to hang on it wherever it does."""
    held, feature = in_grace(plan_key, *kept), SOLD.features[feature_key]
    now, then = value_of(feature_key, *held), value_of(feature_key, *kept)
    if feature.type is not FeatureType.TEXT and feature.merge is not IntegerMerge.SUM and now:
        assert (reason_of(feature_key, *held) is CheckReason.GIVEN_IN_GRACE) is (now != then)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (SourceState.PAYMENT_OVERDUE, CheckReason.PAYMENT_OVERDUE),
        (SourceState.PENDING_PAYMENT, CheckReason.PENDING_PAYMENT),
        (SourceState.PAUSED, CheckReason.PAUSED),
        (SourceState.DISPUTED, CheckReason.DISPUTED),
        (SourceState.REFUNDED, CheckReason.ENDED),
        (SourceState.ENDED, CheckReason.ENDED),
    ],
)
def test_what_they_would_have_says_why_they_do_not(state: SourceState, reason: CheckReason) -> None:
    over = replace(holding("pro", state), end=None)
    found = checked("api_access", over)
    assert (found.allowed, found.reason) == (False, reason)
    assert found.source is not None
    assert found.source.state is state
    assert found.plan_keys == ("pro", "team")


def test_what_can_be_mended_goes_before_what_is_over() -> None:
    ended, overdue = holding("team", SourceState.ENDED), holding("pro", SourceState.PAYMENT_OVERDUE)
    assert checked("api_access", ended, overdue).reason is CheckReason.PAYMENT_OVERDUE


def test_a_plan_without_the_feature_explains_nothing() -> None:
    assert checked("export", holding("pro", SourceState.PAYMENT_OVERDUE)).reason is CheckReason.NOT_IN_PLAN


def value_of(feature_key: str, *held: Access) -> object:
    answer = fold("ann", 1, held, SOLD, NOW)
    return next(one.value for one in answer.entitlements if one.feature_key == feature_key)


def offered(feature_key: str, *held: Access) -> tuple[str, ...]:
    return check(fold("ann", 1, held, SOLD, NOW), feature_key, SOLD, SUBSCRIBED.keys()).plan_keys


def is_more(before: object, after: object) -> bool:
    """Whether it is more of a limit that is allowed, or on where it was off."""
    if isinstance(before, bool) or not isinstance(before, int):
        return not before and bool(after)
    return after is UNLIMITED or (isinstance(after, int) and after > before)


def test_an_add_on_is_no_more_where_the_default_plan_gives_more_than_it_and_is_not_added() -> None:
    assert (value_of("storage"), value_of("storage", SUBSCRIBED["extra"])) == (5, 2)
    assert offered("storage") == ("team", "pro", "disk")


def test_a_plan_of_another_group_adds_to_a_sum_and_one_of_the_same_replaces() -> None:
    assert value_of("storage", SUBSCRIBED["team"], SUBSCRIBED["disk"]) == 30
    assert offered("storage", SUBSCRIBED["team"]) == ("pro", "extra", "disk")
    assert offered("storage", SUBSCRIBED["pro"], SUBSCRIBED["disk"]) == ("extra",)


_HELD = st.tuples(
    st.sampled_from([[], ["team"], ["pro"]]),
    st.sampled_from([[], ["disk"]]),
    st.sampled_from([[], ["extra"], ["extra", "extra"]]),
).map(lambda keys: [SUBSCRIBED[key] for some in keys for key in some])
_GRANTED = (
    st.none()
    | st.builds(granted, override=st.booleans(), plan_key=st.sampled_from(sorted(SOLD.plans)))
    | st.just(granted(feature_key="storage", value=7))
    | st.just(granted(feature_key="support", value=""))
)


@for_any(_HELD, _GRANTED, st.sampled_from(sorted(SOLD.features)), st.sampled_from(sorted(SUBSCRIBED)))
def test_a_plan_is_offered_where_who_buys_it_has_more_and_only_there(
    held: list[Access], grant: Access | None, feature_key: str, plan_key: str
) -> None:
    now = [*held] if grant is None else [grant, *held]
    plan, bought = SOLD.plans[plan_key], SUBSCRIBED[plan_key]
    replaced = [one for one in held if one.plan is not None and one.plan.group == plan.group and plan.group is not None]
    then = [bought if one in replaced else one for one in now] if replaced else [*now, bought]
    more = is_more(value_of(feature_key, *now), value_of(feature_key, *then))
    assert (plan_key in offered(feature_key, *now)) is more
