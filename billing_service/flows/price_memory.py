"""Remembers, inside a transaction, which plan a price stands for: where an object tells it, and where another process learnt it.

A price rise moves the lookup key to a new price, and from then on no payload and no read says whose the old one was. So it is
kept with the first observation that says it, whichever process that reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from billing_service.domain.catalog import Catalog
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import ItemView, SubscriptionView, View
from billing_service.storage import prices
from billing_service.storage.database import Connection
from billing_service.storage.prices import PriceRow


def learn(connection: Connection, views: Iterable[View], plans: PlanIndex) -> None:
    """Remember the prices of subscriptions whose lookup key says the plan. Before anything else is locked but event ids."""
    told = plans.told(_items(views))
    rows = [_row(price_id, lookup_key, plans.catalog) for price_id, lookup_key in sorted(told.items())]
    if rows:
        prices.learn(connection, rows)


async def recall(connection: Connection, items: Iterable[ItemView], plans: PlanIndex) -> PlanIndex:
    """Give the index with what Postgres knows of prices that it cannot resolve. No statement where there are none."""
    wanted = plans.unresolved(items)
    return plans.remembering(await prices.find(connection, wanted)) if wanted else plans


def items_of(facts: CustomerFacts) -> Iterator[ItemView]:
    """Give the items of every subscription of a customer."""
    return (item for subscription in facts.subscriptions for item in subscription.items)


def _items(views: Iterable[View]) -> Iterator[ItemView]:
    return (item for view in views if isinstance(view, SubscriptionView) for item in view.items)


def _row(price_id: str, lookup_key: str, catalog: Catalog) -> PriceRow:
    plan = catalog.plan_of_lookup_key(lookup_key)
    price = next((p for p in plan.prices if p.lookup_key == lookup_key), None) if plan else None
    if plan is None or price is None:
        raise LookupError("only lookup keys of the catalog tell a plan")
    return PriceRow(price_id, plan.plan_key, price.price_key, lookup_key, active=True, current=False)
