"""One plan of the catalog's file: its table -> Plan, with a note for each rule that does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from billing_service.domain.catalog import (
    UNLIMITED,
    Feature,
    FeatureType,
    FeatureValue,
    Plan,
    PlanMode,
    Policy,
)
from billing_service.domain.catalog_price import read_prices
from billing_service.domain.toml_table import Notes, Path, Table, kind_of, place_of, suggestion, text_problem

# Times the largest quantity (1,000,000) it still fits an int64, with room to add several sources up.
MAX_INTEGER_VALUE = 1_000_000_000_000
MAX_RANK = 1_000_000
MAX_DURATION_DAYS = 36_500  # a hundred years; "for ever" is said by leaving it out
MAX_GRACE_DAYS = 365
MAX_LEEWAY_HOURS = 24 * 30
MAX_SCALES = 100

_PLAN_KEYS = (
    "name",
    "description",
    "mode",
    "group",
    "rank",
    "features",
    "scales",
    "quantity",
    "duration_days",
    "prices",
    "policy",
)
_POLICY_SWITCHES = (
    "access_before_settled",
    "access_while_paused",
    "access_while_collection_paused",
    "partial_refund_revokes",
    "open_dispute_suspends",
    "lost_dispute_revokes",
    "one_trial_per_customer",
)
_POLICY_KEYS = ("past_due_grace_days", "period_end_leeway_hours", "trial_days", *_POLICY_SWITCHES)
MAX_TRIAL_DAYS = 730  # Stripe's limit: https://docs.stripe.com/api/checkout/sessions/create
_DEFAULT = Policy()
_HOUR = timedelta(hours=1)


# The features that plans may name. None: its own table does not hold, so nothing can be said of its values.
Features = Mapping[str, Feature | None]


def read_plan(plan_key: str, table: Table, features: Features) -> Plan:
    """Read one plan's table; what does not hold is noted, and the plan is then not to be used."""
    table.refuse_unknown(_PLAN_KEYS)
    mode = table.choice("mode", PlanMode)
    _note_mode_rules(table, mode)
    return Plan(
        plan_key=plan_key,
        name=table.text("name"),
        description=table.text("description", default=""),
        mode=mode or PlanMode.FREE,
        group=table.key("group") if "group" in table.values else None,
        rank=table.integer("rank", least=0, most=MAX_RANK, default=0),
        prices=read_prices(table, mode),
        features=_read_values(table.table("features"), features),
        scales=_read_scales(table, features),
        quantity_allowed=table.boolean("quantity", default=False),
        duration=_read_duration(table),
        policy=_read_policy(table.table("policy")),
    )


def note_shared_lookup_keys(plan_tables: Mapping[str, Table], notes: Notes) -> None:
    """Note each lookup key that stands a second time: a paid price must say which plan was bought."""
    first_place: dict[str, str] = {}
    for plan_key, table in plan_tables.items():
        prices = table.values.get("prices")
        for index, price in enumerate(prices if isinstance(prices, list) else ()):
            lookup_key = price.get("lookup_key") if isinstance(price, dict) else None
            if not isinstance(lookup_key, str) or not lookup_key.strip():
                continue
            path: Path = ("plans", plan_key, "prices", index, "lookup_key")
            if other := first_place.get(lookup_key):
                notes.add(path, f"is the one of {other} too; each price needs a lookup key of its own")
            first_place.setdefault(lookup_key, place_of(path[:-1]))


def _note_mode_rules(table: Table, mode: PlanMode | None) -> None:
    """Note what the plan's mode leaves no room for, and what it asks for."""
    has_prices = table.values.get("prices", []) != []
    if mode is PlanMode.FREE:
        for key in ("prices", "quantity"):
            if table.values.get(key):
                table.note(key, "must not be there: a free plan is never bought")
    elif mode is not None and not has_prices:
        table.note("prices", f'is missing: a plan of mode "{mode}" needs at least one price')
    if "duration_days" in table.values and mode in {PlanMode.FREE, PlanMode.SUBSCRIPTION}:
        table.note("duration_days", f'is for plans of mode "payment"; this one is "{mode}"')


def _read_values(table: Table, features: Features) -> dict[str, FeatureValue]:
    """Give the plan's values, in the order of the catalog's features."""
    values: dict[str, FeatureValue] = {}
    for key in table.values:
        if key not in features:
            table.note(key, f"is not a feature of this catalog{suggestion(key, features)}")
        elif (feature := features[key]) and (value := _read_value(table, feature)) is not None:
            values[key] = value
    return {key: values[key] for key in features if key in values}


def _read_value(table: Table, feature: Feature) -> FeatureValue | None:
    """Give one value in its feature's type; None after a note."""
    key, value = feature.feature_key, table.values[feature.feature_key]
    if value == UNLIMITED and feature.type is not FeatureType.TEXT:
        if feature.type is FeatureType.INTEGER:
            return UNLIMITED
        table.note(key, f'is {feature.type}; "unlimited" is for integer features')
        return None
    if feature.type is FeatureType.BOOLEAN:
        return table.boolean(key, default=False)
    if feature.type is FeatureType.INTEGER:
        return _read_limit(table, key, value)
    problem = text_problem(value) if isinstance(value, str) else f"must be a text, not {kind_of(value)}"
    if problem:
        table.note(key, problem)
    return value if isinstance(value, str) else None


def _read_limit(table: Table, key: str, value: object) -> int:
    if isinstance(value, str):
        table.note(key, f'must be an integer or "unlimited"{suggestion(value, [UNLIMITED])}')
        return 0
    return table.integer(key, least=0, most=MAX_INTEGER_VALUE, default=0)


def _read_scales(plan: Table, features: Features) -> frozenset[str]:
    own_values = plan.values.get("features")
    own = own_values if isinstance(own_values, dict) else {}
    scales: set[str] = set()
    for index, key in enumerate(plan.elements("scales", most=MAX_SCALES)):
        path = (*plan.path, "scales", index)
        if not isinstance(key, str):
            plan.notes.add(path, f"must be the key of a feature, not {kind_of(key)}")
        elif key not in features:
            plan.notes.add(path, f'"{key}" is not a feature of this catalog{suggestion(key, features)}')
        elif (feature := features[key]) and feature.type is not FeatureType.INTEGER:
            plan.notes.add(path, f'"{key}" is {feature.type}; only integer features scale')
        elif key not in own:
            plan.notes.add(path, f'"{key}" is not among the features of this plan')
        else:
            scales.add(key)
    return frozenset(scales)


def _read_duration(table: Table) -> timedelta | None:
    if "duration_days" not in table.values:
        return None
    return timedelta(days=table.integer("duration_days", least=1, most=MAX_DURATION_DAYS, default=1))


def _read_policy(table: Table) -> Policy:
    table.refuse_unknown(_POLICY_KEYS)
    grace_days = table.integer(
        "past_due_grace_days", least=0, most=MAX_GRACE_DAYS, default=_DEFAULT.past_due_grace.days
    )
    leeway_hours = table.integer(
        "period_end_leeway_hours", least=0, most=MAX_LEEWAY_HOURS, default=_DEFAULT.period_end_leeway // _HOUR
    )
    trial_days = table.integer("trial_days", least=0, most=MAX_TRIAL_DAYS, default=0)
    return Policy(
        past_due_grace=timedelta(days=grace_days),
        period_end_leeway=timedelta(hours=leeway_hours),
        trial=timedelta(days=trial_days) if trial_days else None,
        **{key: table.boolean(key, default=getattr(_DEFAULT, key)) for key in _POLICY_SWITCHES},
    )
