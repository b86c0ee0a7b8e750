"""What a customer pays for twice: two live subscriptions of one plan group, or two paid purchases that give at the same time.

A group says that one is held at a time, and a purchase does not prolong another: both begin when they are paid. So a pass that is
bought again before the first one has ended counts, however it was meant; one that is bought afterwards does not, nor one that was
given back. A pass and a subscription are not compared: who has a pass may subscribe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from billing_service.domain.access import GIVING, Access, accesses
from billing_service.domain.facts import CustomerFacts, PurchaseFacts
from billing_service.domain.frozen import frozen
from billing_service.domain.plan_index import PlanIndex


@frozen
class BoughtTwice:
    """The subscriptions and purchases of one plan group that stand beside each other."""

    plan_group: str
    subscription_ids: tuple[str, ...] = ()  # none, or at least two
    checkout_session_ids: tuple[str, ...] = ()  # likewise


def bought_twice(facts: CustomerFacts, plans: PlanIndex) -> Sequence[BoughtTwice]:
    """Give what was bought twice, whatever the time is, in the order of the groups."""
    held = _live_subscriptions(facts, plans)
    paid = _paid_purchases(facts, plans)
    twice = {group: tuple(ids) for group, ids in held.items() if len(ids) > 1}
    beside = {group: ids for group, own in paid.items() if (ids := _overlapping(own))}
    return [BoughtTwice(group, twice.get(group, ()), beside.get(group, ())) for group in sorted(twice.keys() | beside)]


def _live_subscriptions(facts: CustomerFacts, plans: PlanIndex) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for subscription in facts.subscriptions:
        if subscription.is_live:
            sold = (plans.of_price(item.price_id, item.lookup_key) for item in subscription.items)
            for group in {plan.group for plan in sold if plan is not None and plan.group is not None}:
                found.setdefault(group, []).append(subscription.subscription_id)
    return found


def _paid_purchases(facts: CustomerFacts, plans: PlanIndex) -> dict[str, list[Access]]:
    paid = tuple(one for one in facts.purchases if one.paid_time is not None and _is_grouped(one, plans))
    if len(paid) < 2:  # as it nearly always is
        return {}
    found: dict[str, list[Access]] = {}
    for access in accesses(CustomerFacts(purchases=paid), plans.of_price, plans.of_key):
        if access.plan is not None and access.plan.group is not None and access.state in GIVING:
            found.setdefault(access.plan.group, []).append(access)
    return found


def _is_grouped(purchase: PurchaseFacts, plans: PlanIndex) -> bool:
    plan = plans.of_key(purchase.plan_key)
    return plan is not None and plan.group is not None


def _overlapping(given: Iterable[Access]) -> tuple[str, ...]:
    """Give the purchases, in the order in which they begin, whose window overlaps another's."""
    found: dict[str, None] = {}
    longest: Access | None = None  # of those that have begun before
    for one in given:
        if longest is not None and not _ends_by(longest, one.start):
            found |= dict.fromkeys([longest.stripe_id or "", one.stripe_id or ""])
        if longest is None or (one.end is None or _ends_by(longest, one.end)):
            longest = one
    return tuple(found)


def _ends_by(access: Access, time: datetime) -> bool:
    return access.end is not None and access.end <= time
