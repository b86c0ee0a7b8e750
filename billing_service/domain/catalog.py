"""The catalog as values: what is sold, and what it turns on. Loading and checking the file: `parse_catalog`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cached_property


class FeatureType(StrEnum):
    """The type of a feature's values."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    TEXT = "text"


class IntegerMerge(StrEnum):
    """How an integer feature of several sources becomes one value."""

    MAX = "max"
    SUM = "sum"


class Unlimited(StrEnum):
    """The value of an integer feature without a limit."""

    UNLIMITED = "unlimited"


UNLIMITED = Unlimited.UNLIMITED
# bool before int: True is an int to Python.
FeatureValue = bool | int | Unlimited | str


class PlanMode(StrEnum):
    """How a plan is paid for; the words of Stripe's Checkout, and free."""

    FREE = "free"
    SUBSCRIPTION = "subscription"
    PAYMENT = "payment"


@dataclass(frozen=True)
class Feature:
    """A thing that plans turn on."""

    feature_key: str
    name: str
    type: FeatureType
    merge: IntegerMerge = IntegerMerge.MAX  # integer features only


class Interval(StrEnum):
    """How often a subscription is paid; Stripe's words."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True)
class Charge:
    """What is charged at a price, per unit."""

    amount_minor: int  # in the currency's smallest unit
    currency: str  # ISO 4217 in lower case, as Stripe has it
    interval: Interval | None = None  # None: paid once
    interval_count: int = 1  # so many intervals between two payments

    def __str__(self) -> str:
        """Write it for an operator: "1200 eur per month"; amounts stay in the smallest unit, which cannot be misread."""
        if self.interval is None:
            return f"{self.amount_minor} {self.currency} once"
        span = self.interval if self.interval_count == 1 else f"{self.interval_count} {self.interval}s"
        return f"{self.amount_minor} {self.currency} per {span}"


@dataclass(frozen=True)
class Price:
    """One price of a plan. What is charged is Stripe's to say; `charge` is what it is meant to be, where the file has it."""

    price_key: str
    lookup_key: str
    text: str
    charge: Charge | None = None


@dataclass(frozen=True)
class Policy:
    """What a plan does in the cases that Stripe leaves to us. The defaults are the safe ones."""

    past_due_grace: timedelta = timedelta(days=7)
    period_end_leeway: timedelta = timedelta(days=1)
    access_before_settled: bool = False  # while a delayed payment (bank debit) is on its way
    access_while_paused: bool = False  # status "paused": a trial without a payment method ended, or on demand
    access_while_collection_paused: bool = True  # `pause_collection`: Stripe leaves the status alone
    partial_refund_revokes: bool = False  # of a one-time purchase; a full one always does
    open_dispute_suspends: bool = True
    lost_dispute_revokes: bool = True
    trial: timedelta | None = None  # what a first subscription begins with
    one_trial_per_customer: bool = True


@dataclass(frozen=True)
class Plan:
    """Something sold."""

    plan_key: str
    name: str
    description: str
    mode: PlanMode
    group: str | None
    rank: int
    prices: tuple[Price, ...]
    features: Mapping[str, FeatureValue]  # by feature_key; at quantity 1
    scales: frozenset[str]  # the integer features that are multiplied by the quantity
    quantity_allowed: bool
    duration: timedelta | None  # payment mode: how long a purchase lasts; None: for ever
    policy: Policy = Policy()

    def price(self, price_key: str | None) -> Price | None:
        """Give the price of this key, the first one for None, or None where there is no such price."""
        if price_key is None:
            return self.prices[0] if self.prices else None
        return next((price for price in self.prices if price.price_key == price_key), None)


@dataclass(frozen=True)
class Catalog:
    """One version of the catalog, whole and checked."""

    version: str  # the hash of its content
    default_plan: Plan | None
    features: Mapping[str, Feature]  # in the order of the file
    plans: Mapping[str, Plan]  # in the order of the file

    def plan_of_lookup_key(self, lookup_key: str) -> Plan | None:
        """Give the plan that sells at this lookup key; at most one does (checked when parsed)."""
        return self._by_lookup_key.get(lookup_key)

    @cached_property
    def _by_lookup_key(self) -> Mapping[str, Plan]:
        return {price.lookup_key: plan for plan in self.plans.values() for price in plan.prices}
