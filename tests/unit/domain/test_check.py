"""One feature: allowed or not, why, until when, and what to buy otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_service.domain.access import Access, SourceState, SourceType
from billing_service.domain.catalog import UNLIMITED
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.check import Check, CheckReason, check
from billing_service.domain.entitlement import fold
from billing_service.domain.frozen import replace

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
