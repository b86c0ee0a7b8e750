"""Admits a catalog at the start: keeps its content and since when it is used, and refuses one that would take paid plans away.

A plan with live sources may not vanish from the catalog: everybody who pays for it would have nothing from one moment to the
next, and no restart of the old release could be blamed. To stop selling a plan, its prices are deactivated at Stripe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_content import content_of
from billing_service.storage import catalogs
from billing_service.storage.catalogs import KeptCatalog
from billing_service.storage.database import Connection, Database

# Where a plan is missing every customer is looked at; a million take a few seconds. Less than `TRANSACTION_BOUND_S`.
SCAN_LIMIT_S = 45.0

log = structlog.get_logger(__name__)


class PlanVanishedError(Exception):
    """Plans that customers hold are not in the catalog; `holders` has how many customers, by plan key."""

    def __init__(self, holders: Mapping[str, int]) -> None:
        """Take who holds what."""
        self.holders = dict(holders)
        held = ", ".join(f'"{plan_key}" (customers: {count})' for plan_key, count in sorted(holders.items()))
        super().__init__(
            f"the catalog has lost plans that customers have: {held}. Put them back. To stop selling a plan, keep it in the "
            "catalog and deactivate its prices at Stripe."
        )


class AdmitCatalog:
    """Compares one catalog with those that were used before."""

    def __init__(self, database: Database, catalog: Catalog, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._catalog = catalog
        self._now = now

    async def __call__(self) -> None:
        """Record that the catalog is used from now on; nothing where it was the last one.

        Raises:
            PlanVanishedError: customers have plans that it does not know; nothing is recorded.
            DatabaseUnavailableError: it does not answer.
        """
        await self._database.run(self._admit, limit_s=SCAN_LIMIT_S)

    async def _admit(self, connection: Connection) -> None:
        await catalogs.lock(connection)
        known = self._catalog.plans.keys()
        vanished = await catalogs.plan_keys_ever(connection) - known
        if vanished and (holders := await catalogs.holders(connection, vanished, self._now())):
            raise PlanVanishedError(holders)
        latest = await catalogs.latest(connection)
        version = self._catalog.version
        if latest is None or latest.version != version:
            await catalogs.activate(connection, KeptCatalog(version, content_of(self._catalog)), self._now())
            log.info("catalog_activated", version=version, before=latest.version if latest else None)
