"""Sources -> features at a time.

The merge per feature: boolean OR; integer max or sum, as the catalog says; text by plan rank. The default plan holds
while no live source has a plan of its group, and never adds to a sum. Where a live grant overrides a feature, only such grants
are merged for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter

from billing_service.domain.access import GIVING, Access, Source, SourceState, SourceType
from billing_service.domain.catalog import (
    UNLIMITED,
    Catalog,
    Feature,
    FeatureType,
    FeatureValue,
    IntegerMerge,
    Plan,
)
from billing_service.domain.frozen import frozen, replace
from billing_service.domain.grant import fits

_ACTIVE, _GRACE, _SCHEDULED = SourceState.ACTIVE, SourceState.GRACE, SourceState.SCHEDULED
_DEFAULT_PLAN, _SUM = SourceType.DEFAULT_PLAN, IntegerMerge.SUM
MAX_INTEGER = 2**63 - 1  # what the contract's int64 can say
ABOVE_EVERY_PLAN = 2**31  # the rank of a feature that was granted by itself: a person chose it for this customer
# The value of a feature that no live source gives.
NOTHING: Mapping[FeatureType, FeatureValue] = {
    FeatureType.BOOLEAN: False,
    FeatureType.INTEGER: 0,
    FeatureType.TEXT: "",
}


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
    """A source that gives its plan, or a single feature, now."""

    source: Source
    plan: Plan | None  # None: a grant of a single feature
    change: datetime | None
    rank: int
    values: Mapping[str, FeatureValue]  # by feature_key, at its quantity


_rank = attrgetter("rank")


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
            live.append(_live(access, source, change))
        elif source.state is _SCHEDULED:
            scheduled.append(access)
    default = _default(live, catalog)
    moves = _default_moves(live, scheduled, catalog.default_plan) if changes and catalog.default_plan else None
    if default is not None:
        live.append(default)
        sources.append(default.source)
    features = catalog.features.values()
    entitlements = _only(features, live[0]) if len(live) == 1 else _merged(features, live)
    if scheduled:
        entitlements = [_until_begun(one, scheduled) for one in entitlements]
    if moves is not None and catalog.default_plan is not None:
        entitlements = _until_moved(entitlements, catalog.default_plan, moves)
    return Entitlements(
        customer_id=customer_id,
        revision=revision,
        entitlements=tuple(entitlements),
        sources=tuple(sources),
        plan_keys=_plan_keys(live),
        read_time=now,
        next_change_time=min(changes) if changes else None,
        catalog_version=catalog.version,
    )


def _live(access: Access, source: Source, change: datetime | None) -> _Live:
    plan, grant = access.plan, access.grant
    if plan is not None:
        values = _scaled(plan, access.quantity) if plan.scales and access.quantity != 1 else plan.features
        return _Live(source, plan, change, plan.rank, values)
    named = {grant.feature_key: grant.feature_value} if grant is not None and grant.feature_key is not None else {}
    return _Live(source, None, change, ABOVE_EVERY_PLAN, named)


def _scaled(plan: Plan, quantity: int) -> Mapping[str, FeatureValue]:
    """Multiply the integers that go by the quantity; what is unlimited, and a switch, stay as they are."""
    values = dict(plan.features)
    for key in plan.scales:
        value = values.get(key)
        if type(value) is int:
            values[key] = value * quantity
    return values


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


def _default_moves(bought: Sequence[_Live], scheduled: Iterable[Access], plan: Plan) -> datetime | None:
    """Say when the default plan may come or go by time alone: as the last plan of its group ends, or as the first begins."""
    group = plan.group
    if group is None:
        return None
    if not scheduled and len(bought) == 1 and bought[0].values.keys() >= plan.features.keys():
        return None  # as of nearly everybody: what the default plan names ends with this one, and says so already
    ends = [one.change for one in bought if one.plan is not None and one.plan.group == group]
    if not ends:
        return _earliest(one.start for one in scheduled if one.plan is not None and one.plan.group == group)
    known = [end for end in ends if end is not None]
    return max(known) if len(known) == len(ends) else None


def _until_moved(found: Iterable[Entitlement], plan: Plan, moves: datetime) -> list[Entitlement]:
    """Have the default plan's features say that they may change when it comes or goes; an override holds either way."""
    return [
        replace(one, next_change_time=moves)
        if (one.next_change_time is None or moves < one.next_change_time)
        and one.feature_key in plan.features
        and (one.source is None or not one.source.override)
        else one
        for one in found
    ]


def _default(live: Iterable[_Live], catalog: Catalog) -> _Live | None:
    plan = catalog.default_plan
    groups = {one.plan.group for one in live if one.plan is not None}
    if plan is None or (plan.group is not None and plan.group in groups):
        return None
    source = Source(
        type=_DEFAULT_PLAN,
        state=_ACTIVE,
        plan_key=plan.plan_key,
        quantity=1,
        stripe_id=None,
        stripe_subscription_id=None,
        start_time=None,
        end_time=None,
    )
    return _Live(source, plan, None, plan.rank, plan.features)


def _only(features: Iterable[Feature], one: _Live) -> list[Entitlement]:
    """Give what `_merged` gives where one source alone is live, as for nearly everybody: there is nothing to merge."""
    return [_given(feature, one) if feature.feature_key in one.values else _not_given(feature) for feature in features]


def _merged(features: Iterable[Feature], live: Sequence[_Live]) -> list[Entitlement]:
    """Merge feature by feature over the sources that give it; where there are overrides, over these."""
    overriding = [one for one in live if one.source.override]
    found: list[Entitlement] = []
    for feature in features:
        key = feature.feature_key
        giving = [one for one in overriding if key in one.values] if overriding else []
        giving = giving or [one for one in live if key in one.values]
        if len(giving) > 1:
            value, decider = _MERGES[feature.type](feature, giving)
            if decider.source.state is _GRACE:
                decider = _lasting(feature, giving, value) or decider
            found.append(Entitlement(key, value, decider.source, _first_change(giving)))
        else:
            found.append(_given(feature, giving[0]) if giving else _not_given(feature))
    return found


def _lasting(feature: Feature, giving: Sequence[_Live], value: FeatureValue) -> _Live | None:
    """Find who decides a value that does not hang on a payment that failed: others give as much without it."""
    others = [one for one in giving if one.source.state is not _GRACE]
    if not others:
        return None
    without, decider = _MERGES[feature.type](feature, others)
    return decider if without == value else None


def _given(feature: Feature, one: _Live) -> Entitlement:
    value = one.values[feature.feature_key]
    if isinstance(value, int) and value > MAX_INTEGER:
        value = MAX_INTEGER
    return Entitlement(feature.feature_key, value, one.source, one.change)


def _not_given(feature: Feature) -> Entitlement:
    return Entitlement(feature.feature_key, NOTHING[feature.type], None, None)


def _any(feature: Feature, giving: Sequence[_Live]) -> tuple[FeatureValue, _Live]:
    key = feature.feature_key
    for one in giving:
        if one.values[key] is True:
            return True, one
    return False, giving[0]


def _of_highest_rank(feature: Feature, giving: Sequence[_Live]) -> tuple[FeatureValue, _Live]:
    best = max(giving, key=_rank)
    return best.values[feature.feature_key], best


def _integer(feature: Feature, giving: Sequence[_Live]) -> tuple[FeatureValue, _Live]:
    """The default plan is never added to a sum: what was bought counts, from the first that was."""
    key = feature.feature_key
    best = bought = None
    most = total = 0
    for one in giving:
        value = one.values[key]
        if not isinstance(value, int):  # the catalog has no other
            return UNLIMITED, one
        if best is None or value > most:
            best, most = one, value
        if one.source.type is not _DEFAULT_PLAN:
            bought = bought or one
            total += value
    if bought is not None and feature.merge is _SUM:
        return min(total, MAX_INTEGER), bought
    return min(most, MAX_INTEGER), best or giving[0]


_MERGES: Mapping[FeatureType, Callable[[Feature, Sequence[_Live]], tuple[FeatureValue, _Live]]] = {
    FeatureType.BOOLEAN: _any,
    FeatureType.INTEGER: _integer,
    FeatureType.TEXT: _of_highest_rank,
}


def _first_change(giving: Iterable[_Live]) -> datetime | None:
    first: datetime | None = None
    for one in giving:
        if one.change is not None and (first is None or one.change < first):
            first = one.change
    return first


def _earliest(times: Iterable[datetime | None]) -> datetime | None:
    return min([time for time in times if time is not None], default=None)
