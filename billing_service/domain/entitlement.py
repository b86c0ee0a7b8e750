"""Sources -> features at a time.

The merge per feature: boolean OR; integer max or sum, as the catalog says; text by plan rank. The default plan holds
while no live source has a plan of its group, and never adds to a sum. Where a live grant overrides a feature, only such grants
are merged for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from billing_service.domain.access import GIVING, Access, Source, SourceState, SourceType
from billing_service.domain.catalog import (
    UNLIMITED,
    Catalog,
    Feature,
    FeatureType,
    FeatureValue,
    IntegerMerge,
    Plan,
    Unlimited,
)
from billing_service.domain.frozen import frozen
from billing_service.domain.grant import GrantFacts, fits

MAX_INTEGER = 2**63 - 1  # what the contract's int64 can say
ABOVE_EVERY_PLAN = 2**31  # the rank of a feature that was granted by itself: a person chose it for this customer
NOTHING: Mapping[FeatureType, FeatureValue] = {
    FeatureType.BOOLEAN: False,
    FeatureType.INTEGER: 0,
    FeatureType.TEXT: "",
}  # the value of a feature that no live source gives


@frozen
class Entitlement:
    """What one customer may use of one feature, and why."""

    feature_key: str
    value: FeatureValue
    source: Source | None  # None where no live source gives the feature
    next_change_time: datetime | None  # when time alone may change it


@frozen
class Entitlements:
    """What one customer may use at one time."""

    customer_id: str
    revision: int
    entitlements: tuple[Entitlement, ...]  # one per feature of the catalog, in its order
    sources: tuple[Source, ...]
    plan_keys: tuple[str, ...]  # live now, highest rank first
    read_time: datetime
    next_change_time: datetime | None
    catalog_version: str
    facts_time: datetime | None = None  # what was committed before is in here; None: all that was when it was asked for


@frozen
class _Live:
    """A source that gives its plan now."""

    source: Source
    plan: Plan | None  # None: a grant of a single feature
    change: datetime | None
    grant: GrantFacts | None = None

    @property
    def rank(self) -> int:
        return ABOVE_EVERY_PLAN if self.plan is None else self.plan.rank

    def value(self, feature_key: str) -> FeatureValue | None:
        if self.plan is None:
            grant = self.grant
            return grant.feature_value if grant and grant.feature_key == feature_key else None
        value = self.plan.features.get(feature_key)
        if feature_key in self.plan.scales and isinstance(value, int) and not isinstance(value, bool):
            return value * self.source.quantity
        return value


def fold(customer_id: str, revision: int, accesses: Sequence[Access], catalog: Catalog, now: datetime) -> Entitlements:
    """Work out what a customer may use at `now`; pure."""
    sources: list[Source] = []
    changes: list[datetime] = []
    live: list[_Live] = []
    scheduled: list[Access] = []
    for access in accesses:
        source = access.at(now) if access.grant is None else _granted(access, catalog, now)
        change = access.next_change(now)
        sources.append(source)
        if change is not None:
            changes.append(change)
        if source.state in GIVING:
            live.append(_Live(source, access.plan, change, access.grant))
        elif source.state is SourceState.SCHEDULED:
            scheduled.append(access)
    default = _default(live, catalog)
    if default is not None:
        live.append(default)
        sources.append(default.source)
    features = catalog.features.values()
    entitlements = _only(features, live[0]) if len(live) == 1 else [_entitlement(feature, live) for feature in features]
    if scheduled:
        entitlements = [_until_begun(one, scheduled) for one in entitlements]
    return Entitlements(
        customer_id=customer_id,
        revision=revision,
        entitlements=tuple(entitlements),
        sources=tuple(sources),
        plan_keys=_plan_keys(live),
        read_time=now,
        next_change_time=min(changes, default=None),
        catalog_version=catalog.version,
    )


def _plan_keys(live: Sequence[_Live]) -> tuple[str, ...]:
    by_rank = live if len(live) == 1 else sorted(live, key=_rank, reverse=True)
    return tuple(dict.fromkeys([one.plan.plan_key for one in by_rank if one.plan is not None]))


def _granted(access: Access, catalog: Catalog, now: datetime) -> Source:
    """Give a grant as it stands; one of a feature that the catalog does not have, or has otherwise, gives nothing."""
    source, grant = access.at(now), access.grant
    if grant is None or grant.feature_key is None or fits(catalog.features.get(grant.feature_key), grant.feature_value):
        return source
    return replace(source, state=SourceState.UNRESOLVED)


def _until_begun(one: Entitlement, scheduled: Iterable[Access]) -> Entitlement:
    """Have a feature say that it may change when a grant begins that names it."""
    begins = [
        access.start
        for access in scheduled
        if access.grant is not None
        and (access.grant.feature_key == one.feature_key or (access.plan and one.feature_key in access.plan.features))
    ]
    return replace(one, next_change_time=_earliest([one.next_change_time, *begins])) if begins else one


def _default(live: Iterable[_Live], catalog: Catalog) -> _Live | None:
    plan = catalog.default_plan
    groups = {one.plan.group for one in live if one.plan is not None}
    if plan is None or (plan.group is not None and plan.group in groups):
        return None
    source = Source(
        type=SourceType.DEFAULT_PLAN,
        state=SourceState.ACTIVE,
        plan_key=plan.plan_key,
        quantity=1,
        stripe_id=None,
        stripe_subscription_id=None,
        start_time=None,
        end_time=None,
    )
    return _Live(source, plan, None)


def _rank(one: _Live) -> int:
    return one.rank


def _only(features: Iterable[Feature], one: _Live) -> list[Entitlement]:
    """Give what `_entitlement` gives where one source alone is live, as for nearly everybody: there is nothing to merge."""
    found: list[Entitlement] = []
    source, change = one.source, one.change
    for feature in features:
        value = one.value(feature.feature_key)
        if value is None:
            found.append(Entitlement(feature.feature_key, NOTHING[feature.type], None, None))
        else:
            least = min(value, MAX_INTEGER) if isinstance(value, int) else value
            found.append(Entitlement(feature.feature_key, least, source, change))
    return found


def _entitlement(feature: Feature, live: Sequence[_Live]) -> Entitlement:
    giving = [(one, value) for one in live if (value := one.value(feature.feature_key)) is not None]
    giving = [pair for pair in giving if pair[0].source.override] or giving
    change = _earliest(one.change for one, _ in giving)
    value, decider = _merged(feature, giving)
    return Entitlement(feature.feature_key, value, decider.source if decider else None, change)


def _merged(feature: Feature, giving: list[tuple[_Live, FeatureValue]]) -> tuple[FeatureValue, _Live | None]:
    match feature.type:
        case FeatureType.BOOLEAN:
            on = [one for one, value in giving if value is True]
            return (True, on[0]) if on else (False, giving[0][0] if giving else None)
        case FeatureType.TEXT:
            best = max(giving, key=lambda pair: pair[0].rank, default=None)
            return (best[1], best[0]) if best else ("", None)
        case FeatureType.INTEGER:
            return _merged_integer(feature.merge, giving)


def _merged_integer(merge: IntegerMerge, giving: list[tuple[_Live, FeatureValue]]) -> tuple[FeatureValue, _Live | None]:
    if not giving:
        return 0, None
    unlimited = [one for one, value in giving if isinstance(value, Unlimited)]
    if unlimited:
        return UNLIMITED, unlimited[0]
    numbers = [(one, value) for one, value in giving if isinstance(value, int)]
    bought = [pair for pair in numbers if pair[0].source.type is not SourceType.DEFAULT_PLAN]
    if merge is IntegerMerge.SUM and bought:
        return min(sum(value for _, value in bought), MAX_INTEGER), bought[0][0]
    best = max(numbers, key=lambda pair: pair[1])
    return min(best[1], MAX_INTEGER), best[0]


def _earliest(times: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)
