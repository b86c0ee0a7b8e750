"""Makes the portal's configuration for a plan group from the catalog: once, remembered, found again by its metadata.

One configuration per group: with one for all, a person could change a plan of one group to one of another.
"""

from __future__ import annotations

import structlog

from billing_service.domain.catalog import Plan, PlanMode
from billing_service.domain.checkout_body import plan_group_of
from billing_service.domain.errors import PriceNotAvailableError, StripeUnavailableError
from billing_service.domain.portal import (
    PortalPlan,
    configuration_body,
    configuration_metadata,
    content_hash,
    products_of,
)
from billing_service.flows.prices import Prices
from billing_service.storage import portal_configurations
from billing_service.storage.database import Database
from billing_service.storage.portal_configurations import PortalConfiguration
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeDefinite, StripeKeyConflict

MAX_ROUNDS = 2  # with the prices that are remembered, and with those that Stripe has now

log = structlog.get_logger(__name__)


class PortalConfigurations:
    """Gives the configuration of a plan group."""

    def __init__(self, database: Database, stripe: StripeApi, prices: Prices, deployment: str) -> None:
        """`deployment` goes into the metadata of what is made."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._deployment = deployment

    async def of_group(self, plan: Plan | None) -> PortalConfiguration:
        """Give the configuration for the plans of `plan`'s group, or None for one in which no plan can be changed.

        Raises:
            StripeCallError: Stripe did not answer with one; the next call goes on.
            StripeUnavailableError: its prices are not those that are remembered, and could not be read anew.
            DatabaseUnavailableError: it does not answer.
        """
        for _ in range(MAX_ROUNDS):
            plans, lookup_keys = await self._plans(plan)
            known = await self._ensure(content_hash(plans, self._deployment))
            if known.configuration_id is not None:
                return known
            configuration_id = await self._found_or_made(known, plans, lookup_keys)
            if configuration_id is not None:
                return await self._made(known, configuration_id)
            await self._prices.refresh()
        raise StripeUnavailableError

    async def _made(self, known: PortalConfiguration, configuration_id: str) -> PortalConfiguration:
        await self._database.run(lambda c: portal_configurations.made(c, known.content_hash, configuration_id))
        return await self._ensure(known.content_hash)

    async def forget(self, configuration: PortalConfiguration) -> None:
        """Drop a configuration that Stripe does not take any more, so that the next call makes a new one."""
        await self._database.run(lambda c: portal_configurations.next_attempt(c, configuration))

    async def _ensure(self, content: str) -> PortalConfiguration:
        return await self._database.run(lambda c: portal_configurations.ensure(c, content))

    async def _plans(self, plan: Plan | None) -> tuple[list[PortalPlan], list[str]]:
        """Give the plans of a group that can be bought now, and their lookup keys."""
        if plan is None:
            return [], []
        found: list[PortalPlan] = []
        lookup_keys: list[str] = []
        for one in self._prices.index.catalog.plans.values():
            if one.mode is PlanMode.SUBSCRIPTION and plan_group_of(one) == plan_group_of(plan):
                ids = await self._price_ids(one)
                found += [PortalPlan(tuple(ids.values()), one.quantity_allowed)] if ids else []
                lookup_keys += ids
        return found, lookup_keys

    async def _price_ids(self, plan: Plan) -> dict[str, str]:
        """Give the prices at which a plan can be bought now, lookup key -> price id; one that cannot is left out."""
        ids: dict[str, str] = {}
        for price in plan.prices:
            try:
                ids[price.lookup_key] = await self._prices.price_id(plan, price)
            except PriceNotAvailableError:
                continue
        return ids

    async def _found_or_made(
        self, known: PortalConfiguration, plans: list[PortalPlan], lookup_keys: list[str]
    ) -> str | None:
        """Give the configuration's id; None where the prices have moved, so that it would not be what its hash says."""
        metadata = configuration_metadata(known.content_hash, self._deployment)
        # A configuration that was forgotten is still there, and of no use.
        found = await self._stripe.find_portal_configuration(metadata) if known.attempt == 1 else None
        if found is not None:
            return found
        prices = await self._stripe.find_prices(lookup_keys)
        product_of_price = {price.price_id: price.product_id for price in prices}
        if any(price_id not in product_of_price for one in plans for price_id in one.price_ids):
            return None
        products = products_of(plans, product_of_price)
        key = f"portal/{self._deployment}/{known.content_hash}/{known.attempt}"
        try:
            made = await self._stripe.create_portal_configuration(configuration_body(products, metadata), key)
        except (StripeDefinite, StripeKeyConflict):
            await self.forget(known)
            raise
        log.info("portal_configuration_made", configuration_id=made.object["id"], products=len(products))
        return str(made.object["id"])
