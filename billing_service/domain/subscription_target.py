"""Which item of a subscription a request means, and what that item is to become; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from billing_service.domain.bills import UNSETTLED
from billing_service.domain.catalog import Plan, PlanMode, Price
from billing_service.domain.errors import (
    FieldViolation,
    InvalidFieldsError,
    PlanGroupMismatchError,
    PlanNotForSaleError,
    PlanNotFoundError,
    PriceNotFoundError,
    SubscriptionEndingError,
    SubscriptionNotFoundError,
    SubscriptionNotLiveError,
    SubscriptionPausedError,
    SubscriptionUnpaidError,
)
from billing_service.domain.facts import CustomerFacts, SubscriptionFacts
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.subscription import Wanted
from billing_service.domain.views import ItemView, SubscriptionStatus

_OVERDUE = frozenset({SubscriptionStatus.PAST_DUE, SubscriptionStatus.UNPAID})
PriceKeyOf = Callable[[ItemView], str | None]  # the key of the price that an item is on, as far as it is known


@dataclass(frozen=True)
class Target:
    """What one item is to become. `price` None: it stays on exactly the price that it is on."""

    item: ItemView
    plan: Plan
    price: Price | None
    price_key: str  # of `price`, or of the price that stays; empty where that is not known
    quantity: int


def find_subscription(facts: CustomerFacts, subscription_id: str) -> SubscriptionFacts:
    """Give a live subscription of the customer's own.

    Raises:
        SubscriptionNotFoundError: the customer has none of this id; somebody else's is not found either.
        SubscriptionNotLiveError: it is over.
    """
    subscription = own_subscription(facts, subscription_id)
    require_live(subscription)
    return subscription


def own_subscription(facts: CustomerFacts, subscription_id: str) -> SubscriptionFacts:
    """Give a subscription of the customer's own, live or over. Raises SubscriptionNotFoundError."""
    for subscription in facts.subscriptions:
        if subscription.subscription_id == subscription_id:
            return subscription
    raise SubscriptionNotFoundError(subscription_id)


def require_live(subscription: SubscriptionFacts) -> None:
    """Refuse a subscription that is over. Raises SubscriptionNotLiveError."""
    if not subscription.is_live:
        raise SubscriptionNotLiveError


def main_item(subscription: SubscriptionFacts, plans: PlanIndex) -> ItemView:
    """Give the item by which a subscription is described: the first whose plan is known, or else the first."""
    known = (item for item in subscription.items if plans.of_price(item.price_id, item.lookup_key))
    return next(known, subscription.items[0])


def is_ending(subscription: SubscriptionFacts) -> bool:
    """Say whether a subscription is to end instead of renewing."""
    return subscription.cancel_at_period_end or subscription.cancel_at is not None


def require_changeable(subscription: SubscriptionFacts, *, at_period_end: bool) -> None:
    """Refuse to change what a live subscription consists of while that cannot be right.

    A change now credits what is left of the period, at its full price: of one that was never paid that would be a gift.

    Raises:
        SubscriptionNotLiveError: it is over, or its first payment was never made.
        SubscriptionPausedError: it is paused, so that no period runs.
        SubscriptionEndingError: it ends with the period at whose end it was to change.
        SubscriptionUnpaidError: it was to change now, and the period that runs is not paid.
    """
    status = subscription.status
    require_live(subscription)
    if status is SubscriptionStatus.INCOMPLETE:
        raise SubscriptionNotLiveError
    if status is SubscriptionStatus.PAUSED:
        raise SubscriptionPausedError
    if at_period_end and is_ending(subscription):
        raise SubscriptionEndingError
    unpaid = status in _OVERDUE or (status is SubscriptionStatus.ACTIVE and subscription.invoice_status in UNSETTLED)
    if unpaid and not at_period_end:
        raise SubscriptionUnpaidError


def target_of(
    wanted: Wanted, subscription: SubscriptionFacts, plans: PlanIndex, price_key_of: PriceKeyOf, *, at_period_end: bool
) -> Target:
    """Work out what a request means for a live subscription.

    Raises:
        BillingError: those of `require_changeable`.
        PlanNotFoundError, PriceNotFoundError, PlanNotForSaleError, PlanGroupMismatchError, InvalidFieldsError: as they say.
    """
    require_changeable(subscription, at_period_end=at_period_end)
    item, plan = _held(wanted, subscription, plans)
    held = plans.of_price(item.price_id, item.lookup_key)
    held_key = price_key_of(item)
    price = _price(plan, wanted.price_key, held_key, stays=held == plan)
    quantity = wanted.quantity or (item.quantity if plan.quantity_allowed else 1)
    if quantity > 1 and not plan.quantity_allowed:
        violation = FieldViolation("quantity", f"must be 1: the plan {plan.plan_key!r} is sold one at a time")
        raise InvalidFieldsError([violation])
    return Target(item, plan, price, price.price_key if price else held_key or "", quantity)


def _held(wanted: Wanted, subscription: SubscriptionFacts, plans: PlanIndex) -> tuple[ItemView, Plan]:
    """Give the item to change and the plan that it is to have."""
    held = [(item, plans.of_price(item.price_id, item.lookup_key)) for item in subscription.items]
    known = [(item, plan) for item, plan in held if plan is not None]
    if wanted.plan_key is None:
        if len(known) != 1:
            reason = "is required: the subscription holds several plans, or none that is known"
            raise InvalidFieldsError([FieldViolation("plan_key", reason)])
        return known[0]
    plan = plans.of_key(wanted.plan_key)
    if plan is None:
        raise PlanNotFoundError(wanted.plan_key)
    if plan.mode is PlanMode.FREE:
        raise PlanNotForSaleError
    if plan.mode is PlanMode.SUBSCRIPTION:
        exact = [item for item, has in known if has == plan]  # first: the item of a sibling would make two of this plan
        alike = [item for item, has in known if plan.group is not None and has.group == plan.group]
        for item in (*exact, *alike):
            return item, plan
    raise PlanGroupMismatchError(metadata={"plan_key": plan.plan_key})


def _price(plan: Plan, price_key: str | None, held_key: str | None, *, stays: bool) -> Price | None:
    """Choose the price: the one asked for; the one that is paid, where the plan stays; or its like of the new plan."""
    if price_key is None and stays:
        return None
    alike = plan.price(held_key) if price_key is None and held_key is not None else None
    price = alike or plan.price(price_key)
    if price is None:
        raise PriceNotFoundError(f"{plan.plan_key}/{price_key or ''}")
    return price
