"""Makes a customer known to Stripe: once, as long as Stripe keeps the key (a day), and never by looking it up.

The body and a random key are committed before the request leaves, so that every retry sends the same; the answer is bound
in a transaction of its own. An e-mail address never finds a customer: that would be an account takeover.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

import structlog

from billing_service.domain.checkout_body import customer_body
from billing_service.domain.errors import FieldViolation, InvalidFieldsError, StripeRefusedError, StripeUnavailableError
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.apply import Context, refold
from billing_service.flows.prices import Prices
from billing_service.logs import named
from billing_service.storage import customers, stripe_customers
from billing_service.storage.customers import StripeCustomerDraft
from billing_service.storage.database import Connection, Database
from billing_service.storage.history import Cause, CauseKind
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import (
    StripeBusy,
    StripeCallError,
    StripeDefinite,
    StripeDenied,
    StripeKeyConflict,
    StripeNoAnswer,
)

log = structlog.get_logger(__name__)


class StripeCustomers:
    """Gives the Stripe customer that a customer of ours buys with."""

    def __init__(
        self, database: Database, stripe: StripeApi, prices: Prices, deployment: str, now: Callable[[], datetime]
    ) -> None:
        """`deployment` goes into the metadata of what is made; `now` is the one clock of the process."""
        self._now = now
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._deployment = deployment

    async def ensure(self, customer_id: str, email: str | None) -> str:
        """Give the id, "cus_...", making the Stripe customer where there is none.

        Raises:
            StripeUnavailableError: Stripe did not answer; the next call goes on with the same key.
            InvalidFieldsError: Stripe does not take the e-mail address.
            StripeRefusedError: it refused for another reason.
        """
        draft = await self._database.run(lambda connection: self._draft(connection, customer_id, email))
        if draft.stripe_customer_id is not None:
            return draft.stripe_customer_id
        try:
            made = await self._stripe.create_customer(dict(draft.request), str(draft.idempotency_key))
        except (StripeNoAnswer, StripeBusy) as error:
            raise StripeUnavailableError from error
        except StripeDenied as error:  # Stripe has not looked at the idempotency key: the next call goes on with it
            raise _refusal(error) from error
        except StripeCallError as error:
            bound = await self._database.run(lambda connection: _without(connection, customer_id, draft))
            if bound is None:
                raise _refusal(error) from error
            return bound
        plans = await self._prices.plans()
        return await self._database.run(lambda connection: self._bind(connection, customer_id, made, plans))

    async def replace(self, customer_id: str, gone: str) -> None:
        """Forget a Stripe customer that was deleted behind our back, so that the next `ensure` makes a new one."""
        draft = await self._database.run(lambda connection: customers.stripe_customer(connection, customer_id))
        if draft is not None and draft.stripe_customer_id == gone:
            log.warning("stripe_customer_gone", stripe_customer_id=gone)
            key = draft.idempotency_key
            await self._database.run(lambda connection: customers.forget_stripe_customer(connection, customer_id, key))

    async def _draft(self, connection: Connection, customer_id: str, email: str | None) -> StripeCustomerDraft:
        found = await customers.stripe_customer(connection, customer_id)
        if found is not None:
            return found
        await customers.lock(connection, [customer_id])
        body = customer_body(customer_id, email, self._deployment)
        await customers.draft_stripe_customer(connection, customer_id, uuid4(), body)
        drafted = await customers.stripe_customer(connection, customer_id)
        if drafted is None:
            raise LookupError("a draft that was just written is gone")
        return drafted

    async def _bind(self, connection: Connection, customer_id: str, made: str, plans: PlanIndex) -> str:
        """Bind what Stripe made, and give what the customer buys with: that, or what another call was quicker to bind.

        What was parked under the Stripe customer has its effect at once.
        """
        await stripe_customers.lock(connection, [made])
        await customers.lock(connection, [customer_id])
        await stripe_customers.bind(connection, {made: customer_id})
        context = Context(plans, self._now())
        await customers.set_stripe_customer(connection, customer_id, made)
        await refold(connection, {customer_id}, context, Cause(CauseKind.BINDING, made))
        draft = await customers.stripe_customer(connection, customer_id)
        return made if draft is None or draft.stripe_customer_id is None else draft.stripe_customer_id


async def _without(connection: Connection, customer_id: str, draft: StripeCustomerDraft) -> str | None:
    """Drop a draft that came to nothing; give the Stripe customer where another call has got one by the same key."""
    await customers.drop_draft(connection, customer_id, draft.idempotency_key)
    now = await customers.stripe_customer(connection, customer_id)
    return None if now is None else now.stripe_customer_id


def _refusal(error: StripeCallError) -> Exception:
    log.warning("stripe_customer_refused", error=named(error))
    if isinstance(error, StripeKeyConflict):
        return (
            StripeUnavailableError()
        )  # an erasing took the address out after an answer that was lost: the next key is new
    if isinstance(error, StripeDefinite):
        if error.is_server_error:
            return StripeUnavailableError()
        if error.param == "email":
            return InvalidFieldsError([FieldViolation("customer_email", "Stripe does not take this address")])
        return StripeRefusedError(metadata={"stripe_code": error.code} if error.code else None)
    return StripeRefusedError()
