"""Sources -> features at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from billing_service.domain.access import Source
from billing_service.domain.catalog import FeatureValue


@dataclass(frozen=True)
class Entitlement:
    """What one customer may use of one feature, and why."""

    feature_key: str
    value: FeatureValue
    source: Source | None  # None where no live source gives the feature
    next_change_time: datetime | None  # when time alone may change it


@dataclass(frozen=True)
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
