"""Changes of a subscription that callers ask for, and subscriptions as they are answered; as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from billing_service.domain.access import SourceState, accesses
from billing_service.domain.catalog import FeatureValue
from billing_service.domain.facts import CustomerFacts, SubscriptionFacts
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import ItemView


class Operation(StrEnum):
    """What is done to a subscription."""

    UPDATE_NOW = "update_now"
    UPDATE_AT_PERIOD_END = "update_at_period_end"
    CANCEL_NOW = "cancel_now"
    CANCEL_AT_PERIOD_END = "cancel_at_period_end"
    RESUME = "resume"


@dataclass(frozen=True)
class Wanted:
    """What a subscription is to become; None: as it is."""

    plan_key: str | None
    price_key: str | None
    quantity: int | None


@dataclass(frozen=True)
class ChangeRequest:
    """What a caller asks for, each field valid by itself. `wanted` is there for updates, and only for them."""

    request_id: str
    customer_id: str
    subscription_id: str  # Stripe's, "sub_..."
    operation: Operation
    wanted: Wanted | None = None


@dataclass(frozen=True)
class PreviewRequest:
    """What a caller would like to know the cost of."""

    customer_id: str
    subscription_id: str
    at_period_end: bool
    wanted: Wanted


@dataclass(frozen=True)
class ScheduledChange:
    """A change that waits for the end of the period; the keys are None where the catalog knows no plan for its price."""

    plan_key: str | None
    price_key: str | None
    quantity: int
    effective_time: datetime


@dataclass(frozen=True)
class Subscription:
    """One plan of a subscription as it stood when it was changed."""

    subscription_id: str
    customer_id: str
    plan_key: str | None
    price_key: str | None
    quantity: int
    state: SourceState
    period_end_time: datetime
    end_time: datetime | None  # None: it renews
    scheduled_change: ScheduledChange | None


@dataclass(frozen=True)
class FeatureChange:
    """What a change does to one feature."""

    feature_key: str
    before: FeatureValue
    after: FeatureValue


@dataclass(frozen=True)
class UpdatePreview:
    """What a change would cost, in the currency's smallest unit, and what it would change."""

    currency: str  # ISO 4217, upper case
    due_now_amount_minor: int
    period_amount_minor: int
    proration_amount_minor: int
    effective_time: datetime
    plan_key: str
    price_key: str
    quantity: int
    feature_changes: tuple[FeatureChange, ...]


def describe(
    customer_id: str,
    facts: CustomerFacts,
    subscription: SubscriptionFacts,
    item: ItemView,
    plans: PlanIndex,
    price_key: str | None,
    scheduled: ScheduledChange | None,
    now: datetime,
) -> Subscription:
    """Give one item of a customer's subscription as it stands at `now`."""
    sources = {access.stripe_id: access.at(now) for access in accesses(facts, plans.of_price, plans.of_key)}
    plan = plans.of_price(item.price_id, item.lookup_key)
    return Subscription(
        subscription_id=subscription.subscription_id,
        customer_id=customer_id,
        plan_key=plan.plan_key if plan else None,
        price_key=price_key,
        quantity=item.quantity,
        state=sources[item.item_id].state,
        period_end_time=datetime.fromtimestamp(item.period_end, UTC),
        end_time=_end_time(subscription, item),
        scheduled_change=scheduled,
    )


def _end_time(subscription: SubscriptionFacts, item: ItemView) -> datetime | None:
    end = subscription.ended_at or subscription.cancel_at
    if end is None and subscription.cancel_at_period_end:
        end = item.period_end
    return None if end is None else datetime.fromtimestamp(end, UTC)
