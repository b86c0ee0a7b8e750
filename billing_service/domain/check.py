"""One feature of one customer: allowed or not, why, and what to buy otherwise. Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from billing_service.domain.access import Source, SourceState, SourceType
from billing_service.domain.catalog import Catalog, Feature, FeatureType, FeatureValue, IntegerMerge, Plan, Unlimited
from billing_service.domain.entitlement import Entitlement, Entitlements


class CheckReason(StrEnum):
    """Why a feature is allowed or not; the contract says each in words."""

    GIVEN = "given"
    GIVEN_IN_GRACE = "given_in_grace"
    NOT_IN_PLAN = "not_in_plan"
    PAYMENT_OVERDUE = "payment_overdue"
    PENDING_PAYMENT = "pending_payment"
    PAUSED = "paused"
    DISPUTED = "disputed"
    ENDED = "ended"
    OVERRIDDEN = "overridden"


_DEFAULT_PLAN = SourceType.DEFAULT_PLAN
_REPLACED = frozenset({_DEFAULT_PLAN, SourceType.SUBSCRIPTION})  # by a plan of the same group that is bought

# What a source in this state says of a feature that it would give; the first of them that there is, is the answer: what can be
# mended by the person goes before what only waits, and that before what is over.
_REASONS: Mapping[SourceState, CheckReason] = {
    SourceState.PAYMENT_OVERDUE: CheckReason.PAYMENT_OVERDUE,
    SourceState.PENDING_PAYMENT: CheckReason.PENDING_PAYMENT,
    SourceState.PAUSED: CheckReason.PAUSED,
    SourceState.DISPUTED: CheckReason.DISPUTED,
    SourceState.REFUNDED: CheckReason.ENDED,
    SourceState.ENDED: CheckReason.ENDED,
}


@dataclass(frozen=True)
class Check:
    """What one customer may use of one feature at one time."""

    allowed: bool
    value: FeatureValue
    reason: CheckReason
    source: Source | None  # what the reason speaks of
    until: datetime | None  # when the value may change by time alone
    plan_keys: tuple[str, ...]  # for sale, and giving it (or more of it)
    revision: int
    read_time: datetime
    catalog_version: str
    facts_time: datetime | None = None  # as in the answer


def check(answer: Entitlements, feature_key: str, catalog: Catalog, for_sale: Container[str]) -> Check:
    """Judge one feature of an answer by the catalog that made it; `for_sale` has the plans that can be bought now."""
    feature = catalog.features[feature_key]
    given = next(one for one in answer.entitlements if one.feature_key == feature_key)
    allowed = is_on(given.value)
    held = _held(answer, catalog)
    reason, source = _allowed(given, feature, held, catalog) if allowed else _refused(answer, given, catalog)
    overridden = given.source is not None and given.source.override  # whatever is bought changes nothing then
    sold = [plan for plan in catalog.plans.values() if plan.plan_key in for_sale and not overridden]
    plans = [plan for plan in sold if _gives_more(plan, feature, given, held)]
    return Check(
        allowed=allowed,
        value=given.value,
        reason=reason,
        source=source,
        until=given.next_change_time,
        plan_keys=tuple(plan.plan_key for plan in plans),
        revision=answer.revision,
        read_time=answer.read_time,
        catalog_version=answer.catalog_version,
        facts_time=answer.facts_time,
    )


def is_on(value: FeatureValue | None) -> bool:
    """Say whether a value gives anything: true, above 0, unlimited, not empty."""
    return bool(value)


def _allowed(
    given: Entitlement, feature: Feature, held: Sequence[tuple[Source, Plan]], catalog: Catalog
) -> tuple[CheckReason, Source | None]:
    """Say "in grace" only of what would end with it; where another source gives as much, that one decides already."""
    in_grace = given.source is not None and given.source.state is SourceState.GRACE
    hangs = in_grace and not _is_left_by_default(given, feature, held, catalog)
    return CheckReason.GIVEN_IN_GRACE if hangs else CheckReason.GIVEN, given.source


def _is_left_by_default(
    given: Entitlement, feature: Feature, held: Sequence[tuple[Source, Plan]], catalog: Catalog
) -> bool:
    """Say whether the default plan comes once the grace is over, and gives as much. Of what is added or ranked it is not asked."""
    plan = catalog.default_plan
    if plan is None or feature.type is FeatureType.TEXT or feature.merge is IntegerMerge.SUM:
        return False
    stands_aside = any(one.group == plan.group for source, one in held if source.state is not SourceState.GRACE)
    return not stands_aside and plan.features.get(feature.feature_key) == given.value


def _refused(answer: Entitlements, given: Entitlement, catalog: Catalog) -> tuple[CheckReason, Source | None]:
    """Find the source that would give the feature, were it not for its state; of several of a state, the latest."""
    if given.source is not None and given.source.override:
        return CheckReason.OVERRIDDEN, given.source
    would = [
        source
        for source in answer.sources
        if not source.gives
        and source.plan_key is not None
        and (plan := catalog.plans.get(source.plan_key)) is not None
        and is_on(plan.features.get(given.feature_key))
    ]
    for state, reason in _REASONS.items():
        found = [source for source in would if source.state is state]
        if found:
            return reason, found[-1]
    return CheckReason.NOT_IN_PLAN, None


def _held(answer: Entitlements, catalog: Catalog) -> list[tuple[Source, Plan]]:
    """Give the plans that count now."""
    return [
        (source, catalog.plans[source.plan_key])
        for source in answer.sources
        if source.gives and source.plan_key is not None and source.plan_key in catalog.plans
    ]


def _gives_more(plan: Plan, feature: Feature, given: Entitlement, held: Sequence[tuple[Source, Plan]]) -> bool:
    """Say whether who buys a plan has more of the feature by it, as the merge has it; `held` is what they have now."""
    value = plan.features.get(feature.feature_key)
    if not is_on(value) or isinstance(given.value, Unlimited):
        return False
    if feature.type is FeatureType.BOOLEAN:
        return not given.value
    if feature.type is FeatureType.TEXT:
        return not given.value and not _is_outranked(plan, feature, given, held)
    return _adds(plan, feature, given, held)


def _adds(plan: Plan, feature: Feature, given: Entitlement, held: Sequence[tuple[Source, Plan]]) -> bool:
    """Say whether a number that is limited gets larger by a plan."""
    value = plan.features[feature.feature_key]
    if not isinstance(value, int) or not isinstance(given.value, int):
        return True  # unlimited is more than any number
    if plan.quantity_allowed and feature.feature_key in plan.scales:
        return True  # of some number of them
    is_added = given.source is not None and given.source.type is not _DEFAULT_PLAN  # which is added to no sum
    if feature.merge is IntegerMerge.SUM and is_added:
        return value > sum(
            _amount(one, feature, source.quantity)
            for source, one in held
            if source.type is not _DEFAULT_PLAN and _replaces(plan, source, one)
        )
    return value > given.value


def _replaces(plan: Plan, source: Source, held: Plan) -> bool:
    """Say whether a plan that is bought takes the place of one that is held: a customer subscribes to one of a group."""
    return plan.group is not None and held.group == plan.group and source.type in _REPLACED


def _amount(plan: Plan, feature: Feature, quantity: int) -> int:
    value = plan.features.get(feature.feature_key)
    scaled = quantity if feature.feature_key in plan.scales else 1
    return value * scaled if isinstance(value, int) else 0


def _is_outranked(plan: Plan, feature: Feature, given: Entitlement, held: Sequence[tuple[Source, Plan]]) -> bool:
    """Say whether an empty text of theirs counts before the plan's."""
    if given.source is not None and given.source.plan_key is None:
        return True  # given by hand, which goes before every plan
    return any(
        (one.rank, source.type is not _DEFAULT_PLAN) >= (plan.rank, True)
        and feature.feature_key in one.features
        and not _replaces(plan, source, one)
        for source, one in held
    )
