"""Answers what was answered at a past moment: the facts of then, folded with the catalog of then at that time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

import msgspec

from billing_service.domain.access import accesses
from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_content import catalog_of
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.errors import AsOfNotKeptError, FieldViolation, InvalidFieldsError
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.prices import Prices
from billing_service.storage import catalogs, customer_facts, history_horizon
from billing_service.storage.catalogs import KeptCatalog
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database


class ReadPast:
    """Reads facts and catalogs as they were."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now

    async def __call__(self, customer_id: str, as_of: datetime) -> tuple[Entitlements, Catalog]:
        """Give what was answered at `as_of`, and the catalog that it was answered by.

        A price that stood for no plan then and does now counts as if it had been known: what was unresolved is shown resolved.

        Raises:
            InvalidFieldsError: `as_of` is in the future.
            AsOfNotKeptError: it lies before the history.
            DatabaseUnavailableError: it does not answer.
        """
        if as_of > self._now():
            raise InvalidFieldsError([FieldViolation("as_of", "must not be in the future")])

        async def load(connection: Connection) -> tuple[KeptCatalog | None, CustomerRow, datetime | None]:
            kept = await catalogs.active_at(connection, as_of)
            row = await customer_facts.at(connection, customer_id, as_of)
            trimmed = await history_horizon.facts_since(connection)  # last: the row may have been taken out meanwhile
            is_whole = trimmed is None or trimmed <= as_of
            if kept is None:  # no catalog can be older than this, nor any answer
                return None, row, max(filter(None, (trimmed, await catalogs.kept_since(connection))), default=None)
            return (kept, row, None) if is_whole else (None, row, trimmed)

        kept, row, since = await self._database.run(load)
        if kept is None:
            raise AsOfNotKeptError(metadata={"kept_since": since.isoformat()} if since else None)
        catalog = _catalog(kept.version, msgspec.json.encode(kept.content))
        plans = PlanIndex(catalog, (await self._prices.plans_for(row.facts)).remembered)
        given = accesses(row.facts, plans.of_price, plans.of_key)
        return fold(customer_id, row.revision, given, catalog, as_of), catalog


@lru_cache(maxsize=8)  # contents never change under their version
def _catalog(version: str, content: bytes) -> Catalog:
    return catalog_of(version, msgspec.json.decode(content))
