"""Makes a page of Stripe's customer portal; what a person does there arrives by webhook like everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from billing_service.domain.catalog import Plan
from billing_service.domain.checkout_body import plan_group_of
from billing_service.domain.errors import (
    CustomerUnknownToStripeError,
    PriceNotAvailableError,
    StripeUnavailableError,
)
from billing_service.domain.facts import NO_FACTS, CustomerFacts, SubscriptionFacts
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.portal import PortalFlow, PortalRequest, portal_session_body
from billing_service.domain.subscription_target import find_subscription, main_item
from billing_service.flows.change_subscription import refusal
from billing_service.flows.portal_configurations import PortalConfigurations
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.stripe_customer import StripeCustomers
from billing_service.logs import named
from billing_service.storage import customers, objects, stripe_customers
from billing_service.storage.database import Connection, Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Owner:
    """What a customer has, and the Stripe customer whose portal is theirs; None: they have never begun to buy."""

    facts: CustomerFacts
    stripe_customer_id: str | None


class CreatePortalSession:
    """Finds the customer at Stripe and the configuration for what they have, and asks for the page."""

    def __init__(
        self,
        database: Database,
        stripe: StripeApi,
        prices: Prices,
        reads: Reads,
        now: Callable[[], datetime],
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._reads = reads
        self._customers = StripeCustomers(database, stripe, prices, reads, now)
        self._configurations = PortalConfigurations(database, stripe, prices, reads.deployment)

    async def __call__(self, request: PortalRequest) -> str:
        """Give the page's URL, which is as good as a password for some minutes.

        Raises:
            BillingError: the reasons that the contract lists for this call.
        """
        owner = await self._owner(request)
        plan = _plan(request, owner.facts, await self._prices.plans_for(owner.facts))
        if owner.stripe_customer_id is None:
            raise CustomerUnknownToStripeError
        if request.flow is PortalFlow.UPDATE_PLAN and plan is None:
            raise PriceNotAvailableError("The catalog knows no plan for what this subscription is sold at.")
        try:
            return await self._session(request, owner.stripe_customer_id, plan)
        except StripeDefinite as error:
            log.warning("portal_session_not_made", error=named(error))
            if error.missing_customer:
                return await self._replaced(request, owner.stripe_customer_id)
            raise await self._refusal(request, error) from error
        except StripeCallError as error:
            log.warning("portal_session_not_made", error=named(error))
            raise refusal(error) from error

    async def _owner(self, request: PortalRequest) -> _Owner:
        return await self._database.run(lambda connection: _load(connection, request))

    async def _replaced(self, request: PortalRequest, gone: str) -> str:
        """Open the page for a new Stripe customer, where the one that there was has been deleted behind our back.

        Its subscriptions ended with it, so there is no page for one of them.
        """
        await self._require_live(request)
        if request.subscription_id is not None:
            raise CustomerUnknownToStripeError
        await self._customers.replace(request.customer_id, gone)
        stripe_customer_id = await self._customers.ensure(request.customer_id, None)
        try:
            return await self._session(request, stripe_customer_id, None)
        except StripeCallError as error:
            log.warning("portal_session_not_made", error=named(error))
            raise refusal(error) from error

    async def _refusal(self, request: PortalRequest, error: StripeDefinite) -> Exception:
        """Give the reason for a refusal: where Stripe does not take the subscription, what it says of it now."""
        if "subscription" in (error.param or "") and not error.is_server_error:
            await self._require_live(request)
        return refusal(error)

    async def _require_live(self, request: PortalRequest) -> None:
        """Read the subscription that the page is for, if any.

        Raises:
            SubscriptionNotLiveError: it is over, and nobody had told us.
        """
        if request.subscription_id is None:
            return
        try:
            await self._reads.subscription(request.subscription_id)
        except StripeCallError as error:
            raise refusal(error) from error
        except MalformedError as error:
            raise StripeUnavailableError from error
        find_subscription((await self._owner(request)).facts, request.subscription_id)

    async def _session(self, request: PortalRequest, stripe_customer_id: str, plan: Plan | None) -> str:
        configuration = await self._configurations.of_group(plan)
        try:
            return await self._page(request, stripe_customer_id, configuration.configuration_id)
        except StripeDefinite as error:
            if error.param != "configuration":
                raise
        # Somebody has switched it off, or it is of another account: once more, with a new one.
        await self._configurations.forget(configuration)
        configuration = await self._configurations.of_group(plan)
        return await self._page(request, stripe_customer_id, configuration.configuration_id)

    async def _page(self, request: PortalRequest, stripe_customer_id: str, configuration_id: str | None) -> str:
        if configuration_id is None:  # another call has dropped it since
            raise StripeUnavailableError
        body = portal_session_body(request, stripe_customer_id, configuration_id)
        return await self._stripe.create_portal_session(body)


def _plan(request: PortalRequest, facts: CustomerFacts, plans: PlanIndex) -> Plan | None:
    """Give a plan whose group the page is for: that of the subscription, or of all that are live, or None."""
    if request.subscription_id is not None:
        found = [_plan_of(find_subscription(facts, request.subscription_id), plans)]
    else:
        found = [_plan_of(subscription, plans) for subscription in facts.subscriptions if subscription.is_live]
    groups = {plan_group_of(plan): plan for plan in found if plan is not None}
    return next(iter(groups.values())) if len(groups) == 1 else None


def _plan_of(subscription: SubscriptionFacts, plans: PlanIndex) -> Plan | None:
    item = main_item(subscription, plans)
    return plans.of_price(item.price_id, item.lookup_key)


async def _load(connection: Connection, request: PortalRequest) -> _Owner:
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
            return _Owner(facts, known.stripe_customer_id)
    draft = await customers.stripe_customer(connection, customer_id)
    current = draft.stripe_customer_id if draft else None
    return _Owner(facts, current or min(owned, default=None))
