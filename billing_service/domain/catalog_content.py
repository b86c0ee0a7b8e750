"""The catalog as plain JSON values, and back: what its version is the hash of, and what is kept of it for ever.

Kept contents were written by earlier releases: what a later one adds needs a default here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

from billing_service.domain.catalog import (
    UNLIMITED,
    Catalog,
    Charge,
    Feature,
    FeatureType,
    FeatureValue,
    IntegerMerge,
    Interval,
    Plan,
    PlanMode,
    Policy,
    Price,
)

VERSION_CHARS = 16  # 64 bits of SHA-256: short enough to read out, and no two files of one company meet
_DURATIONS = frozenset({"past_due_grace", "period_end_leeway", "trial"})

Content = Mapping[str, Any]


def content_of(catalog: Catalog) -> Content:
    """Give what a catalog means: comments, layout and defaults that are written out change nothing."""
    default = catalog.default_plan
    return {
        "default_plan": default.plan_key if default else None,
        "features": [[f.feature_key, f.name, f.type, f.merge] for f in catalog.features.values()],
        "plans": [_plan_content(plan) for plan in catalog.plans.values()],
    }


def version_of(content: Content) -> str:
    """Hash a content."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:VERSION_CHARS]


def catalog_of(version: str, content: Content) -> Catalog:
    """Give the catalog that a kept content means, under the version that it was kept under."""
    features = {
        key: Feature(key, name, FeatureType(kind), IntegerMerge(merge))
        for key, name, kind, merge in content["features"]
    }
    plans = {plan["plan_key"]: _plan(plan, features) for plan in content["plans"]}
    default = content["default_plan"]
    return Catalog(version, plans[default] if default is not None else None, features, plans)


def _plan_content(plan: Plan) -> dict[str, object]:
    return {
        "plan_key": plan.plan_key,
        "name": plan.name,
        "description": plan.description,
        "mode": plan.mode,
        "group": plan.group,
        "rank": plan.rank,
        "prices": [[price.price_key, price.lookup_key, price.text] for price in plan.prices],
        "features": dict(plan.features),
        "scales": sorted(plan.scales),
        "quantity": plan.quantity_allowed,
        "duration_s": _seconds(plan.duration),
        "policy": {key: _plain(value) for key, value in vars(plan.policy).items()},
    } | _charges_content(plan)


def _plan(content: Content, features: Mapping[str, Feature]) -> Plan:
    charges = content.get("charges", {})
    return Plan(
        plan_key=content["plan_key"],
        name=content["name"],
        description=content["description"],
        mode=PlanMode(content["mode"]),
        group=content["group"],
        rank=content["rank"],
        prices=tuple(_price(price, charges.get(price[0])) for price in content["prices"]),
        features={key: _value(features[key], value) for key, value in content["features"].items()},
        scales=frozenset(content["scales"]),
        quantity_allowed=content["quantity"],
        duration=_duration(content["duration_s"]),
        policy=_policy(content["policy"]),
    )


def _charges_content(plan: Plan) -> dict[str, object]:
    """Give nothing where the file gives no amounts: contents from before there were any keep their versions.

    Beside the prices rather than in them, where an earlier release, which may still run, passes over what it does not know.
    """
    charges = {price.price_key: list(vars(price.charge).values()) for price in plan.prices if price.charge is not None}
    return {"charges": charges} if charges else {}


def _price(content: Sequence[str], charge: Sequence[Any] | None) -> Price:
    price_key, lookup_key, text = content
    if charge is None:
        return Price(price_key, lookup_key, text)
    amount_minor, currency, interval, interval_count = charge
    once = None if interval is None else Interval(interval)
    return Price(price_key, lookup_key, text, Charge(amount_minor, currency, once, interval_count))


def _value(feature: Feature, value: Any) -> FeatureValue:
    unlimited = feature.type is FeatureType.INTEGER and value == UNLIMITED
    plain: FeatureValue = UNLIMITED if unlimited else value
    return plain


def _policy(content: Content) -> Policy:
    known = {field.name for field in fields(Policy)}
    values: dict[str, Any] = {
        key: _duration(value) if key in _DURATIONS else value for key, value in content.items() if key in known
    }
    return Policy(**values)


def _plain(value: timedelta | bool | None) -> int | None:
    return _seconds(value) if isinstance(value, timedelta) else value


def _seconds(duration: timedelta | None) -> int | None:
    return None if duration is None else int(duration.total_seconds())


def _duration(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
