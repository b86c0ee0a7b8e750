"""Makes a customer known to Stripe: once, as long as Stripe keeps the key (a day), and never by looking it up.

The body and a random key are committed before the request leaves, so that every retry sends the same; the answer is bound
in a transaction of its own. An e-mail address never finds a customer: that would be an account takeover.

Who is bound already and was not made here (Stripe's metadata told of them: a backup was restored, or somebody else made them) pays as
that Stripe customer, once Stripe has said that it still exists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from uuid import uuid4

import structlog

from billing_service.domain.checkout_body import customer_body
from billing_service.domain.errors import FieldViolation, InvalidFieldsError, StripeRefusedError, StripeUnavailableError
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import is_deleted_customer
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import ObjectKind
from billing_service.flows.apply import Context, refold
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.logs import named
from billing_service.storage import customers, objects, stripe_customers
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

MOST_ASKED_FOR = 3  # Stripe customers, of those to whom somebody is bound: a person waits
MOST_ROUNDS = MOST_ASKED_FOR + 2  # beside these one is made, and once more where that is somebody else's

log = structlog.get_logger(__name__)


class StripeCustomers:
    """Gives the Stripe customer that a customer of ours buys with."""

    def __init__(
        self, database: Database, stripe: StripeApi, prices: Prices, reads: Reads, now: Callable[[], datetime]
    ) -> None:
        """What is made is of the deployment of `reads`; `now` is the one clock of the process."""
        self._now = now
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._reads = reads

    async def ensure(self, customer_id: str, email: str | None) -> str:
        """Give the id, "cus_...", making the Stripe customer where there is none.

        Raises:
            StripeUnavailableError: Stripe did not answer; the next call goes on with the same key.
            InvalidFieldsError: Stripe does not take the e-mail address.
            StripeRefusedError: it refused for another reason.
        """
        gone: set[str] = set()
        for _ in range(MOST_ROUNDS):
            known = await self._begun(customer_id, email, gone)
            if isinstance(known, str):
                found = await self._named_if_it_exists(customer_id, known)
                gone.add(known)
            else:
                found = known.stripe_customer_id or await self._made(customer_id, known)
            if found is not None:
                return found
        raise StripeUnavailableError

    async def _made(self, customer_id: str, draft: StripeCustomerDraft) -> str | None:
        """Have Stripe make the Stripe customer of a draft, and bind it; None where it is somebody else's by now, and the draft forgotten."""
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
        bound = await self._database.run(lambda connection: self._bind(connection, customer_id, made, plans))
        if bound is None:
            key = draft.idempotency_key
            await self._database.run(lambda connection: customers.drop_draft(connection, customer_id, key))
        return bound

    async def replace(self, customer_id: str, gone: str) -> None:
        """Forget a Stripe customer that was deleted behind our back, so that the next `ensure` makes a new one."""
        draft = await self._database.run(lambda connection: customers.stripe_customer(connection, customer_id))
        if draft is not None and draft.stripe_customer_id == gone:
            log.warning("stripe_customer_gone", stripe_customer_id=gone)
            key = draft.idempotency_key
            await self._database.run(lambda connection: customers.forget_stripe_customer(connection, customer_id, key))

    async def _named_if_it_exists(self, customer_id: str, stripe_id: str) -> str | None:
        """Have a customer buy as a Stripe customer that was not made here, if Stripe says that it is there still."""

        async def name(connection: Connection) -> str | None:
            owner = (await stripe_customers.lock(connection, [stripe_id]))[stripe_id]
            return await _named(connection, customer_id, stripe_id) if owner == customer_id else None

        return await self._database.run(name) if await self._exists(stripe_id) else None

    async def _exists(self, stripe_id: str) -> bool:
        try:
            return not is_deleted_customer((await self._reads.object(ObjectKind.CUSTOMER, stripe_id)).view)
        except (StripeNoAnswer, StripeBusy) as error:
            raise StripeUnavailableError from error
        except MalformedError as error:
            raise StripeRefusedError from error
        except StripeCallError as error:
            if isinstance(error, StripeDefinite) and error.missing:
                return False
            raise _refusal(error) from error

    async def _begun(self, customer_id: str, email: str | None, gone: Collection[str]) -> StripeCustomerDraft | str:
        """Give how the customer is known to Stripe, or is about to be; or a Stripe customer to whom it is bound, if that exists still."""
        return await self._database.run(lambda connection: self._draft(connection, customer_id, email, gone))

    async def _draft(
        self, connection: Connection, customer_id: str, email: str | None, gone: Collection[str]
    ) -> StripeCustomerDraft | str:
        draft = await customers.stripe_customer(connection, customer_id)
        if draft is not None and draft.stripe_customer_id is not None:
            return draft
        found = await _bound(connection, customer_id, gone) or draft
        if found is not None:
            return found
        await customers.lock(connection, [customer_id])
        body = customer_body(customer_id, email, self._reads.deployment)
        await customers.draft_stripe_customer(connection, customer_id, uuid4(), body)
        drafted = await customers.stripe_customer(connection, customer_id)
        if drafted is None:
            raise LookupError("a draft that was just written is gone")
        return drafted

    async def _bind(self, connection: Connection, customer_id: str, made: str, plans: PlanIndex) -> str | None:
        """Bind what Stripe made, and give what the customer buys with: that, or what another call was quicker to bind.

        What was parked under the Stripe customer has its effect at once. None where an operator has bound it to somebody else meanwhile.
        """
        owner = (await stripe_customers.lock(connection, [made]))[made]
        if owner not in {None, customer_id}:
            return None
        await customers.lock(connection, [customer_id])
        await stripe_customers.bind(connection, {made: customer_id})
        context = Context(plans, self._now())
        await refold(connection, {customer_id}, context, Cause(CauseKind.BINDING, made))
        return await _named(connection, customer_id, made)


async def _named(connection: Connection, customer_id: str, stripe_id: str) -> str:
    """Have a customer buy as a Stripe customer, and give that: this one, or what another call was quicker to name."""
    await customers.lock(connection, [customer_id])
    await customers.set_stripe_customer(connection, customer_id, stripe_id)
    draft = await customers.stripe_customer(connection, customer_id)
    return stripe_id if draft is None or draft.stripe_customer_id is None else draft.stripe_customer_id


async def _bound(connection: Connection, customer_id: str, gone: Collection[str]) -> str | None:
    """Give the Stripe customer that was bound last, of those that are not known to be gone; None where there is none."""
    if len(gone) == MOST_ASKED_FOR:
        return None
    for one in (await stripe_customers.bindings(connection, customer_id))[::-1]:
        known = await objects.find(connection, one.stripe_customer_id)
        if one.stripe_customer_id not in gone and (known is None or not is_deleted_customer(known.view)):
            return one.stripe_customer_id
    return None


async def _without(connection: Connection, customer_id: str, draft: StripeCustomerDraft) -> str | None:
    """Drop a draft that came to nothing; give the Stripe customer where another call has got one by the same key."""
    await customers.drop_draft(connection, customer_id, draft.idempotency_key)
    now = await customers.stripe_customer(connection, customer_id)
    return None if now is None else now.stripe_customer_id


def _refusal(error: StripeCallError) -> Exception:
    log.warning("stripe_customer_refused", error=named(error))
    if isinstance(error, StripeKeyConflict):
        # An erasing took the address out after an answer that was lost: the next key is new.
        return StripeUnavailableError()
    if isinstance(error, StripeDefinite):
        if error.is_server_error:
            return StripeUnavailableError()
        if error.param == "email":
            return InvalidFieldsError([FieldViolation("customer_email", "Stripe does not take this address")])
        return StripeRefusedError(metadata={"stripe_code": error.code} if error.code else None)
    return StripeRefusedError()
