"""Makes a page on which a customer can pay, exactly one per intent, whatever crashes in between.

Three phases, no network call inside a transaction:

1. Under the customer's lock: guard, resume or supersede, and commit the intent with the body that Stripe will be sent.
2. Stripe: expire what was superseded, make the customer, make the session. The idempotency key is the intent and the
   attempt: the same attempt after a lost answer, the next one after a definite error.
3. Compare and set what Stripe answered. An intent that was superseded meanwhile expires the session it just made.

A crash anywhere is resumed by the next call, with the same request id or for the same thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from billing_service.deadline import deadline_after, remaining_s
from billing_service.domain.checkout import CheckoutRequest, CheckoutSession, CreatedCheckout
from billing_service.domain.checkout_body import fingerprint
from billing_service.domain.errors import (
    AlreadySubscribedError,
    CheckoutSupersededError,
    PriceNotAvailableError,
    RequestIdReusedError,
    RequestInProgressError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.views import ObjectKind, SessionStatus
from billing_service.flows.checkout_intents import CheckoutIntents, Order
from billing_service.flows.get_checkout_session import described
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.stripe_customer import StripeCustomers
from billing_service.flows.superseded_sessions import SupersededSessions
from billing_service.logs import named
from billing_service.storage import checkouts, customers
from billing_service.storage.checkouts import Intent, IntentState, StoredRequest
from billing_service.storage.database import Connection, Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import (
    StripeBusy,
    StripeCallError,
    StripeDefinite,
    StripeDenied,
    StripeKeyConflict,
    StripeNoAnswer,
)

MAX_ROUNDS = 4  # of phases 2 and 3 in one call: a deleted customer, a key conflict and a price that rose each cost one
PAGE_LIMIT_S = 5.0  # for the question whether an open page can still be paid on: it is at hand without it
PAGE_SHARE = 0.5  # and at most this much of the caller's time
IN_PROGRESS_TRIES = 20  # looks at an intent that another call is carrying out
IN_PROGRESS_PAUSE_S = 0.1

log = structlog.get_logger(__name__)


class CreateCheckoutSession:
    """Carries a request through the three phases."""

    def __init__(
        self,
        database: Database,
        stripe: StripeApi,
        prices: Prices,
        reads: Reads,
        deployment: str,
        now: Callable[[], datetime],
    ) -> None:
        """`now` is the one clock of the process; `deployment` goes into the metadata of what is made."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._reads = reads
        self._intents = CheckoutIntents(database, prices, deployment, now)
        self._superseded = SupersededSessions(database, reads)
        self._customers = StripeCustomers(database, stripe, prices, reads, now)
        self._now = now

    async def __call__(self, request: CheckoutRequest) -> CreatedCheckout:
        """Give the page, made or found.

        Raises:
            BillingError: the reasons that the contract lists for this call.
        """
        stored = await self._database.run(lambda connection: checkouts.find_request(connection, request.request_id))
        if stored is not None:
            request = _as_then(request, stored)
            if stored.intent.state not in {IntentState.CREATING, IntentState.ABANDONED}:
                return CreatedCheckout(await self._answer(stored.intent), stored.reused)
        await self._prices.plans()  # the guards go by what is remembered
        order = self._intents.order(request)
        if stored is None or self._intents.is_stale(stored.intent):
            stored = await self._begin(order)
        session = await self._finish(order, stored.intent)
        return CreatedCheckout(session, stored.reused)

    async def _begin(self, order: Order) -> StoredRequest:
        """Phase 1, once Stripe was asked for what it may know and we do not."""
        customer_id = order.request.customer_id
        price_id = await self._prices.price_id(order.plan, order.price)
        await self._superseded.hear_of_completed(customer_id, order.group)
        if order.has_one_trial:
            await self._superseded.hear_of_trials(customer_id, self._now())
        await self._hear_of_page(order)
        return await self._intents.begin(order, price_id)

    async def _hear_of_page(self, order: Order) -> None:
        """Ask after a page that is about to be given again: paid, expired, or of a deleted Stripe customer, nobody can pay on it.

        Stripe being away changes nothing: then the page is given by what is remembered.
        """
        page = await self._intents.open_page(order)
        if page is None:
            return
        try:
            with deadline_after(remaining_s(PAGE_LIMIT_S / PAGE_SHARE) * PAGE_SHARE):
                session = await self._reads.checkout_session(page.checkout_session_id or "")
                if session.status is SessionStatus.OPEN and page.stripe_customer_id is not None:
                    await self._reads.object(ObjectKind.CUSTOMER, page.stripe_customer_id)
        except (StripeCallError, MalformedError) as error:
            log.warning("stripe_read_failed", error=named(error))

    # Phases 2 and 3 ----------------------------------------------------------------------------------------------

    async def _finish(self, order: Order, intent: Intent) -> CheckoutSession:
        """Bring an intent to its session, or say why there is none."""
        for _ in range(MAX_ROUNDS):
            if intent.state is not IntentState.CREATING:
                return await self._answer(intent)
            await self._superseded.expire_all(order.request.customer_id, order.group)
            intent = await self._attempt(order, intent)
        raise StripeUnavailableError

    async def _answer(self, intent: Intent) -> CheckoutSession:
        if intent.state is IntentState.REFUSED:
            raise AlreadySubscribedError(metadata={"plan_group": intent.plan_group.partition(":")[2]})
        if intent.checkout_session_id is None:
            raise CheckoutSupersededError
        return await self._database.run(lambda connection: described(connection, intent, self._now()))

    async def _attempt(self, order: Order, intent: Intent) -> Intent:
        """Ask Stripe for the session, record the answer, and give the intent as it is then."""
        customer = await self._customers.ensure(order.request.customer_id, order.request.customer_email)
        intent = await self._intents.cleared(order, intent, customer)
        if intent.state is not IntentState.CREATING or intent.stripe_customer_id is None:
            return intent
        body = {**intent.request_body, "customer": intent.stripe_customer_id}
        try:
            made = (await self._stripe.create_checkout_session(body, f"{intent.intent_id}/{intent.attempt}")).object
        except StripeCallError as error:
            return await self._failed(order, intent, error)
        expire_time = datetime.fromtimestamp(made["expires_at"], UTC)
        return await self._record(intent, made["id"], made["url"], expire_time)

    async def _record(self, intent: Intent, session_id: str, url: str, expire_time: datetime) -> Intent:
        """Phase 3: compare and set."""

        async def record(connection: Connection) -> Intent:
            await customers.lock(connection, [intent.customer_id])
            if not await checkouts.open_session(connection, intent.intent_id, session_id, url, expire_time):
                await checkouts.late_session(connection, intent.intent_id, session_id)
            return await checkouts.find(connection, intent.intent_id)

        now = await self._database.run(record)
        if now.state is IntentState.EXPIRING:
            await self._superseded.expire(now)
            raise CheckoutSupersededError
        return now

    async def _failed(self, order: Order, intent: Intent, error: StripeCallError) -> Intent:
        """Decide what a failed request means for the intent: the same attempt later, the next one now, or a refusal."""
        log.warning("checkout_session_not_made", intent_id=str(intent.intent_id), error=named(error))
        match error:
            case StripeBusy(status=409):
                return await self._watched(intent)
            case StripeNoAnswer() | StripeBusy():
                raise StripeUnavailableError from error
            case StripeDenied():
                raise StripeRefusedError from error
            case StripeKeyConflict():
                return await self._intents.next_attempt(order, intent)
            case StripeDefinite(missing_customer=True):
                await self._customers.replace(intent.customer_id, intent.stripe_customer_id or "")
                return await self._intents.next_attempt(order, intent)
        await self._prices.refresh()
        following = await self._intents.next_attempt(order, intent)
        if _is_of_price(error) and _price_of(following) != _price_of(intent):
            return following  # the price rose a moment ago: it is sold, at the new one
        raise _refusal(order, error) from error

    async def _watched(self, intent: Intent) -> Intent:
        """Wait, a bounded time, for the call that is carrying out this intent right now."""
        for _ in range(IN_PROGRESS_TRIES):
            await asyncio.sleep(IN_PROGRESS_PAUSE_S)
            now = await self._database.run(lambda connection: checkouts.find(connection, intent.intent_id))
            if now.state is not IntentState.CREATING or now.attempt != intent.attempt:
                return now
        raise RequestInProgressError


def _as_then(request: CheckoutRequest, stored: StoredRequest) -> CheckoutRequest:
    """Give a request that comes again with the price that it asked for then: the catalog's default may be another now.

    Raises:
        RequestIdReusedError: it asks for something else.
    """
    price_key = request.price_key or stored.intent.price_key
    if stored.fingerprint != fingerprint(request, price_key):
        raise RequestIdReusedError
    return replace(request, price_key=price_key)


def _is_of_price(error: StripeCallError) -> bool:
    """Say whether Stripe does not take the price."""
    return (
        isinstance(error, StripeDefinite) and not error.is_server_error and (error.param or "").startswith("line_items")
    )


def _price_of(intent: Intent) -> str:
    return str(intent.request_body["line_items"][0]["price"])


def _refusal(order: Order, error: StripeCallError) -> Exception:
    if isinstance(error, StripeDefinite):
        if error.is_server_error:
            return StripeUnavailableError()
        if _is_of_price(error):
            return PriceNotAvailableError(metadata={"lookup_key": order.price.lookup_key})
        return StripeRefusedError(metadata={"stripe_code": error.code} if error.code else None)
    return StripeRefusedError()
