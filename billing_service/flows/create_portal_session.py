"""Makes a page of Stripe's customer portal; what a person does there arrives by webhook like everything else."""

from __future__ import annotations

import structlog

from billing_service.domain.catalog import Plan
from billing_service.domain.checkout_body import plan_group_of
from billing_service.domain.errors import CustomerUnknownToStripeError
from billing_service.domain.facts import NO_FACTS, CustomerFacts, SubscriptionFacts
from billing_service.domain.portal import PortalRequest, portal_session_body
from billing_service.domain.subscription_target import find_subscription, main_item
from billing_service.flows.change_subscription import refusal
from billing_service.flows.portal_configurations import PortalConfigurations
from billing_service.flows.prices import Prices
from billing_service.storage import customers, objects, stripe_customers
from billing_service.storage.database import Connection, Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite

log = structlog.get_logger(__name__)


class CreatePortalSession:
    """Finds the customer at Stripe and the configuration for what they have, and asks for the page."""

    def __init__(self, database: Database, stripe: StripeApi, prices: Prices, deployment: str) -> None:
        """`deployment` goes into the metadata of the configurations that are made."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._configurations = PortalConfigurations(database, stripe, prices, deployment)

    async def __call__(self, request: PortalRequest) -> str:
        """Give the page's URL, which is as good as a password for some minutes.

        Raises:
            BillingError: the reasons that the contract lists for this call.
        """
        facts, stripe_customer_id = await self._database.run(lambda connection: _load(connection, request))
        await self._prices.plans_for(facts)
        plan = self._plan(request, facts)
        if stripe_customer_id is None:
            raise CustomerUnknownToStripeError
        try:
            return await self._session(request, stripe_customer_id, plan)
        except StripeDefinite as error:
            log.warning("portal_session_not_made", error=str(error))
            if error.missing_customer:
                raise CustomerUnknownToStripeError from error
            raise refusal(error) from error
        except StripeCallError as error:
            log.warning("portal_session_not_made", error=str(error))
            raise refusal(error) from error

    async def _session(self, request: PortalRequest, stripe_customer_id: str, plan: Plan | None) -> str:
        configuration = await self._configurations.of_group(plan)
        try:
            return await self._page(request, stripe_customer_id, configuration.configuration_id or "")
        except StripeDefinite as error:
            if error.param != "configuration":
                raise
        # Somebody has switched it off, or it is of another account: once more, with a new one.
        await self._configurations.forget(configuration)
        configuration = await self._configurations.of_group(plan)
        return await self._page(request, stripe_customer_id, configuration.configuration_id or "")

    async def _page(self, request: PortalRequest, stripe_customer_id: str, configuration_id: str) -> str:
        return await self._stripe.create_portal_session(
            portal_session_body(request, stripe_customer_id, configuration_id)
        )

    def _plan(self, request: PortalRequest, facts: CustomerFacts) -> Plan | None:
        """Give a plan whose group the page is for: that of the subscription, or of all that are live, or None."""
        if request.subscription_id is not None:
            plans = [self._plan_of(find_subscription(facts, request.subscription_id))]
        else:
            plans = [self._plan_of(subscription) for subscription in facts.subscriptions if subscription.is_live]
        groups = {plan_group_of(plan): plan for plan in plans if plan is not None}
        return next(iter(groups.values())) if len(groups) == 1 else None

    def _plan_of(self, subscription: SubscriptionFacts) -> Plan | None:
        item = main_item(subscription, self._prices.index)
        return self._prices.index.of_price(item.price_id, item.lookup_key)


async def _load(connection: Connection, request: PortalRequest) -> tuple[CustomerFacts, str | None]:
    """Give what a customer has, and the Stripe customer to open the portal for.

    A subscription is managed by the Stripe customer that it is of, which may be one from before a replacement.
    """
    customer_id = request.customer_id
    row = (await customers.load(connection, [customer_id])).get(customer_id)
    facts = NO_FACTS if row is None else row.facts
    owned = await stripe_customers.of_customers(connection, [customer_id])
    if request.subscription_id is not None:
        known = await objects.find(connection, request.subscription_id)
        if known is not None and known.stripe_customer_id in owned:
            return facts, known.stripe_customer_id
    draft = await customers.stripe_customer(connection, customer_id)
    current = draft.stripe_customer_id if draft else None
    return facts, current or min(owned, default=None)
