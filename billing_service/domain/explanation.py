"""Why each source of a customer gives what it gives: the facts, the ruling of the table, the policy. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from billing_service.domain.access import FindPlan, ResolvePlan, Source, Verdict, ruling_of
from billing_service.domain.catalog import Plan, Policy
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.facts import CustomerFacts, PurchaseFacts, SubscriptionFacts
from billing_service.domain.grant import GrantFacts
from billing_service.domain.views import ItemView


@dataclass(frozen=True)
class ItemFacts:
    """An item, and the subscription that it is of."""

    subscription: SubscriptionFacts
    item: ItemView


@dataclass(frozen=True)
class Explanation:
    """One source, and what it stands on. The ruling is that of the table, before disputes, refunds and deleted customers."""

    source: Source
    facts: ItemFacts | PurchaseFacts | GrantFacts
    ruling: Verdict | None = None  # of subscriptions
    policy: Policy | None = None  # of what was bought, where its plan is known


def explain(
    answer: Entitlements, facts: CustomerFacts, resolve: ResolvePlan, find: FindPlan
) -> tuple[Explanation, ...]:
    """Explain every source of an answer that these facts made, in its order; the default plan needs no explanation."""
    known = _by_id(facts)
    pairs = [(source, known.get(source.stripe_id or source.grant_id or "")) for source in answer.sources]
    return tuple(_explained(source, found, resolve, find) for source, found in pairs if found is not None)


def _by_id(facts: CustomerFacts) -> dict[str, ItemFacts | PurchaseFacts | GrantFacts]:
    known: dict[str, ItemFacts | PurchaseFacts | GrantFacts] = {}
    for subscription in facts.subscriptions:
        known |= {item.item_id: ItemFacts(subscription, item) for item in subscription.items}
    known |= {purchase.checkout_session_id: purchase for purchase in facts.purchases}
    known |= {grant.grant_id: grant for grant in facts.grants}
    return known


def _explained(
    source: Source, found: ItemFacts | PurchaseFacts | GrantFacts, resolve: ResolvePlan, find: FindPlan
) -> Explanation:
    if isinstance(found, GrantFacts):
        return Explanation(source, found)
    if isinstance(found, PurchaseFacts):
        return Explanation(source, found, policy=_policy(find(found.plan_key)))
    policy = _policy(resolve(found.item.price_id, found.item.lookup_key))
    return Explanation(source, found, ruling_of(found.subscription, found.item, policy or Policy()), policy)


def _policy(plan: Plan | None) -> Policy | None:
    return plan.policy if plan else None
