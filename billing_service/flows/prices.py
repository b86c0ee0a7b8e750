"""Keeps the catalog's lookup keys resolved to Stripe's prices, in the background and when a purchase needs one.

Stripe being away never keeps the service from starting: what resolved before is kept in Postgres and serves on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from billing_service.domain.catalog import Catalog, Plan, Price
from billing_service.domain.errors import BillingError, PriceNotAvailableError, StripeUnavailableError
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.price_memory import items_of
from billing_service.logs import named
from billing_service.storage import prices as price_rows
from billing_service.storage.database import Database
from billing_service.storage.prices import PriceRow
from billing_service.storage.unwritable import UnwritableError
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError
from billing_service.stripe_api.prices import PriceProblem, lookup_keys_of, resolve_prices

SETTLED_INTERVAL_S = 60.0  # a price that moved at Stripe is sold at its new amount within this
MOST_HELD = 100  # prices of no plan that are told of: more of them say the same
UNSETTLED_INTERVAL_S = 5.0  # while something does not resolve, or Stripe or the database is away

log = structlog.get_logger(__name__)


class Prices:
    """What the catalog's prices are at Stripe, as far as it is known."""

    def __init__(
        self,
        database: Database,
        stripe: StripeApi,
        catalog: Catalog,
        admit: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Knows nothing before `refresh` or `run`. `admit` has to let the catalog pass before anything is answered by it."""
        self._admit = admit
        self._database = database
        self._stripe = stripe
        self._hint = asyncio.Event()
        self._rows: dict[str, PriceRow] = {}
        self._problems: tuple[PriceProblem, ...] = ()
        self._away: str | None = "Stripe's prices were not read yet"
        self._loaded = False
        self._loading = asyncio.Lock()
        self._held: dict[str, str | None] = {}  # prices of no plan that customers hold, with their lookup keys
        self.index = PlanIndex(catalog)  # what is in memory; `plans` makes sure that it has what is remembered

    async def plans(self) -> PlanIndex:
        """Give the plans with every price that is remembered: before these are loaded, past prices resolve to nothing.

        Needs the database once, and Stripe never. Not to be awaited inside a transaction.

        Raises:
            DatabaseUnavailableError: they were never loaded, and the database does not answer.
        """
        if not self._loaded:
            async with self._loading:
                if not self._loaded:
                    await self._load()
        return self.index

    @property
    def loaded(self) -> PlanIndex | None:
        """The plans with every price that this process knows; None until Postgres has told what was known before."""
        return self.index if self._loaded else None

    async def plans_for(self, facts: CustomerFacts) -> PlanIndex:
        """Give the plans with every price that somebody holds, also one that another process learnt a moment ago.

        Asks Postgres only where a price stands for no plan as far as this process knows. Raises as `plans` does.
        """
        plans = await self.plans()
        missing = plans.unresolved(items_of(facts))
        if missing:
            found = await self._database.run(lambda connection: price_rows.find(connection, missing))
            self.index = self.index.remembering(found)
            self._note_held(facts)
        return self.index

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            self._hint.clear()  # one that comes while Stripe is asked may be of what its answer does not say yet
            await self.refresh()
            settled = self._away is None and not self._problems
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLED_INTERVAL_S if settled else UNSETTLED_INTERVAL_S):
                    await self._hint.wait()

    def hint(self) -> None:
        """Say that something changed about prices at Stripe: they are read again now."""
        self._hint.set()

    async def refresh(self) -> None:
        """Load what is remembered, ask Stripe, and remember the answer. Never raises for who is away; `warnings` says it."""
        try:
            await self._load()
            await self._resolve()
        except (StripeCallError, BillingError, UnwritableError) as error:
            self._note_away("Stripe does not answer" if isinstance(error, StripeCallError) else "no database", error)

    async def price_id(self, plan: Plan, price: Price) -> str:
        """Give the Stripe price at which a plan is sold now, asking Stripe where it is not known yet.

        Raises:
            PriceNotAvailableError: Stripe has no active price of the plan's mode with that lookup key.
            StripeUnavailableError: it is not known and Stripe does not answer.
        """
        row = self._current(plan, price)
        if row is None:
            await self.refresh()
            row = self._current(plan, price)
        if row is None and self._away is not None:
            raise StripeUnavailableError
        if row is None:
            raise PriceNotAvailableError(metadata={"lookup_key": price.lookup_key})
        return row.price_id

    def price_key_of(self, price_id: str, lookup_key: str | None) -> str | None:
        """Give the key of the price that a Stripe price is or was of its plan; None where neither is known."""
        row = self._rows.get(price_id)
        if row is not None:
            return row.price_key
        plan = self.index.of_price(price_id, lookup_key)
        prices = plan.prices if plan else ()
        return next((price.price_key for price in prices if price.lookup_key == lookup_key), None)

    def available(self) -> frozenset[tuple[str, str]]:
        """Give what can be bought now, as (plan key, price key)."""
        return frozenset(
            (plan.plan_key, price.price_key)
            for plan in self.index.catalog.plans.values()
            for price in plan.prices
            if self._current(plan, price) is not None
        )

    def unresolved(self) -> tuple[str, ...]:
        """Give the lookup keys that no price at Stripe can be sold at, as far as is known."""
        return tuple(problem.lookup_key for problem in self._problems)

    def held(self) -> tuple[str, ...]:
        """Give the prices of no plan at which customers subscribe, as far as they were read in this process: they get nothing for it."""
        return tuple(id_ for id_, lookup_key in self._held.items() if self.index.of_price(id_, lookup_key) is None)

    def warnings(self) -> tuple[str, ...]:
        """Say what an operator should know, in sentences."""
        found = [f"{p.plan_key}/{p.price_key} ({p.lookup_key}): {p.message}" for p in self._problems]
        found += [f"customers subscribe at {price_id}, which is of no plan in the catalog" for price_id in self.held()]
        return tuple(found if self._away is None else (self._away, *found))

    def _note_held(self, facts: CustomerFacts) -> None:
        items = [item for one in facts.subscriptions if one.is_live for item in one.items]
        wanted = self.index.unresolved(items)
        for item in items:
            if item.price_id in wanted and item.price_id not in self._held and len(self._held) < MOST_HELD:
                self._held[item.price_id] = item.lookup_key
                log.warning("price_of_no_plan", price_id=item.price_id)

    async def _load(self) -> None:
        if self._admit is not None and not self._loaded:
            await self._admit()
        rows = await self._database.run(price_rows.load_all)
        self._rows = {row.price_id: row for row in rows}
        self.index = PlanIndex(self.index.catalog, {row.price_id: row.plan_key for row in rows})
        self._loaded = True

    async def _resolve(self) -> None:
        catalog = self.index.catalog
        resolved = resolve_prices(catalog, await self._stripe.find_prices(lookup_keys_of(catalog)))
        pairs = [(plan, price) for plan in catalog.plans.values() for price in plan.prices]
        rows = [
            PriceRow(found.price_id, plan.plan_key, price.price_key, price.lookup_key, active=True, current=True)
            for plan, price in pairs
            if (found := resolved.price_by_lookup_key.get(price.lookup_key)) is not None
        ]
        current = {row.price_id: row for row in self._rows.values() if row.current}
        if {row.price_id: row for row in rows} != current:
            checked = [(plan.plan_key, price.price_key) for plan, price in pairs]
            await self._database.run(lambda connection: price_rows.remember(connection, checked, rows))
            await self._load()
        self._away = None
        if resolved.problems != self._problems:
            self._problems = resolved.problems
            for problem in resolved.problems:
                log.warning("price_unresolved", lookup_key=problem.lookup_key, problem=problem.message)

    def _note_away(self, what: str, error: Exception) -> None:
        if self._away is None:
            log.warning("prices_not_refreshed", error=named(error))
        self._away = f"prices are not up to date: {what}"

    def _current(self, plan: Plan, price: Price) -> PriceRow | None:
        wanted = (plan.plan_key, price.price_key, price.lookup_key, True, True)
        for row in self._rows.values():
            if (row.plan_key, row.price_key, row.lookup_key, row.active, row.current) == wanted:
                return row
        return None
