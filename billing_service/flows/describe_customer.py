"""Says all that is known of a customer, and why they have what they have: of one moment, in one transaction that only reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.explanation import Explanation, explain
from billing_service.domain.facts import NO_FACTS
from billing_service.domain.operator import Grant
from billing_service.flows.prices import Prices
from billing_service.storage import (
    checkouts,
    customers,
    erasures,
    findings,
    grants,
    history,
    stripe_customers,
    subscription_requests,
)
from billing_service.storage.checkouts import Intent
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database
from billing_service.storage.erasures import Erasure
from billing_service.storage.findings import Finding
from billing_service.storage.stripe_customers import Binding
from billing_service.storage.subscription_requests import Change

MOST = 100  # intents, findings and grants of each kind that are shown


@dataclass(frozen=True)
class CustomerDescription:
    """All that is known of one customer. `create_time`: None where nothing is."""

    entitlements: Entitlements
    explanations: Sequence[Explanation]
    grants: Sequence[Grant]  # the records of those that count
    bindings: Sequence[Binding]
    intents: Sequence[Intent]
    changes: Sequence[Change]
    findings: Sequence[Finding]
    erasure: Erasure | None
    create_time: datetime | None


class DescribeCustomer:
    """Gathers what is known."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now

    async def __call__(self, customer_id: str) -> CustomerDescription:
        """Describe a customer; one of whom nothing is known has the default plan.

        Raises:
            DatabaseUnavailableError: it does not answer.
        """
        known = await self._database.run(lambda connection: self._load(connection, customer_id))
        facts = known.row.facts
        plans = await self._prices.plans_for(facts)
        given = accesses(facts, plans.of_price, plans.of_key)
        answer = fold(customer_id, known.row.revision, given, plans.catalog, self._now())
        return CustomerDescription(
            entitlements=answer,
            explanations=explain(answer, facts, plans.of_price, plans.of_key),
            grants=known.grants,
            bindings=known.bindings,
            intents=known.intents,
            changes=known.changes,
            findings=known.findings,
            erasure=known.erasure,
            create_time=known.create_time,
        )

    async def _load(self, connection: Connection, customer_id: str) -> _Known:
        await history.one_view(connection)
        row = (await customers.load(connection, [customer_id])).get(customer_id)
        return _Known(
            row=row or CustomerRow(customer_id, 0, NO_FACTS),
            grants=[
                found
                for grant in (row.facts.grants if row else ())
                if (found := await grants.find(connection, grant.grant_id)) is not None
            ],
            bindings=await stripe_customers.bindings(connection, customer_id),
            intents=await checkouts.unfinished_of(connection, customer_id, MOST),
            changes=await subscription_requests.unfinished_of(connection, customer_id, MOST),
            findings=await findings.page(connection, None, customer_id, None, MOST, closed=False),
            erasure=await erasures.find(connection, customer_id),
            create_time=await customers.create_time(connection, customer_id),
        )


@dataclass(frozen=True)
class _Known:
    """What the database has of a customer at one moment."""

    row: CustomerRow
    grants: Sequence[Grant]
    bindings: Sequence[Binding]
    intents: Sequence[Intent]
    changes: Sequence[Change]
    findings: Sequence[Finding]
    erasure: Erasure | None
    create_time: datetime | None
