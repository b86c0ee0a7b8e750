"""Works out who would gain or lose what by a catalog before it is used: every customer's facts, folded by both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from billing_service.domain.access import accesses
from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_content import catalog_of
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.impact import Impact, changes_between
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.admit_catalog import SCAN_LIMIT_S
from billing_service.storage import catalogs, customers, prices
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database
from billing_service.storage.prices import PriceRow

PAGE = 500  # customers in one transaction and in memory: some megabytes


class NoCatalogError(Exception):
    """No service has used a catalog on this database yet: there is nothing to compare with."""

    def __init__(self) -> None:
        super().__init__("no catalog was ever used on this database, so that nobody has anything to gain or lose")


class CatalogImpact:
    """Compares a catalog with the one in use."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """`now` is when the values are compared: one moment for everybody."""
        self._database = database
        self._now = now

    async def __call__(self, catalog: Catalog, told: Callable[[int], None]) -> Impact:
        """Look at every customer, a page at a time; `told` hears how many it was so far. Changes nothing.

        Raises:
            NoCatalogError: there is none in use.
            DatabaseUnavailableError: it does not answer.
        """
        now = self._now()
        before, after = await self._database.run(lambda c: _indexes(c, catalog))
        impact = Impact(vanished=await self._database.run(lambda c: _vanished(c, catalog, now), limit_s=SCAN_LIMIT_S))
        nobody = CustomerRow("", 0, CustomerFacts())
        impact.newcomers = changes_between(_folded(nobody, before, now), _folded(nobody, after, now))
        last = ""
        while page := await self._database.run(lambda c, last=last: customers.page(c, None, last, PAGE)):  # type: ignore[misc]  # bound now
            for row in page:
                impact.add(row.customer_id, changes_between(_folded(row, before, now), _folded(row, after, now)))
            last = page[-1].customer_id
            told(impact.customers)
        return impact


def _folded(row: CustomerRow, plans: PlanIndex, now: datetime) -> Entitlements:
    given = accesses(row.facts, plans.of_price, plans.of_key)
    return fold(row.customer_id, row.revision, given, plans.catalog, now)


async def _indexes(connection: Connection, catalog: Catalog) -> tuple[PlanIndex, PlanIndex]:
    """Give the plans as they are, and as they would be after the first look at Stripe's prices."""
    kept = await catalogs.latest(connection)
    if kept is None:
        raise NoCatalogError
    rows = await prices.load_all(connection)
    in_use = PlanIndex(catalog_of(kept.version, kept.content), {row.price_id: row.plan_key for row in rows})
    return in_use, PlanIndex(catalog, _remembered_by(catalog, rows))


def _remembered_by(catalog: Catalog, rows: list[PriceRow]) -> Mapping[str, str]:
    """Give price id -> plan key once the catalog's lookup keys are resolved: a key that it gives to another plan takes along
    the price that has it now. Past prices stay with their plan.
    """
    known = {}
    for row in rows:
        plan = catalog.plan_of_lookup_key(row.lookup_key) if row.current else None
        known[row.price_id] = plan.plan_key if plan is not None else row.plan_key
    return known


async def _vanished(connection: Connection, catalog: Catalog, now: datetime) -> Mapping[str, int]:
    """Give the plans for whose sake a start with this catalog would be refused."""
    gone = await catalogs.plan_keys_ever(connection) - catalog.plans.keys()
    return await catalogs.holders(connection, gone, now) if gone else {}
