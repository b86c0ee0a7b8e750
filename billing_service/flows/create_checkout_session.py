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
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import structlog

from billing_service.domain.catalog import Plan, PlanMode, Price
from billing_service.domain.checkout import CheckoutRequest, CheckoutSession, CreatedCheckout
from billing_service.domain.checkout_body import SESSION_LIFE, fingerprint, plan_group_of, session_body
from billing_service.domain.errors import (
    AlreadySubscribedError,
    CheckoutSupersededError,
    FieldViolation,
    InvalidFieldsError,
    PlanNotForSaleError,
    PlanNotFoundError,
    PriceNotAvailableError,
    PriceNotFoundError,
    RequestIdReusedError,
    RequestInProgressError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.views import SessionStatus
from billing_service.flows.get_checkout_session import described
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.stripe_customer import StripeCustomers
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

RESUME_LIMIT = timedelta(hours=23)  # Stripe keeps an idempotency key for at least 24 hours
REUSE_MINIMUM_LIFE = timedelta(minutes=30)  # a page with less is not given to somebody who asks for one now
MAX_ROUNDS = 4  # of phases 2 and 3 in one call: a deleted customer and a key conflict each cost one
IN_PROGRESS_TRIES = 20  # looks at an intent that another call is carrying out
IN_PROGRESS_PAUSE_S = 0.1

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Order:
    """A request whose plan and price the catalog knows."""

    request: CheckoutRequest
    plan: Plan
    price: Price
    group: str
    fingerprint: bytes


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
        self._customers = StripeCustomers(database, stripe, prices, deployment, now)
        self._deployment = deployment
        self._now = now

    async def __call__(self, request: CheckoutRequest) -> CreatedCheckout:
        """Give the page, made or found.

        Raises:
            BillingError: the reasons that the contract lists for this call.
        """
        stored = await self._database.run(lambda connection: checkouts.find_request(connection, request.request_id))
        if stored is not None and stored.intent.state not in {IntentState.CREATING, IntentState.ABANDONED}:
            # The stored answer, even if the catalog has moved on since.
            if stored.fingerprint != fingerprint(request, request.price_key or stored.intent.price_key):
                raise RequestIdReusedError
            return CreatedCheckout(await self._answer(stored.intent), stored.reused)
        order = self._order(request)
        if stored is None or self._is_stale(stored.intent):
            price_id = await self._prices.price_id(order.plan, order.price)
            await self._hear_of_completed(order)
            stored = await self._database.run(lambda connection: self._begin(connection, order, price_id))
        elif stored.fingerprint != order.fingerprint:
            raise RequestIdReusedError
        session = await self._finish(order, stored.intent)
        return CreatedCheckout(session, stored.reused)

    def _order(self, request: CheckoutRequest) -> _Order:
        plan = self._prices.index.of_key(request.plan_key)
        if plan is None:
            raise PlanNotFoundError(request.plan_key)
        if plan.mode is PlanMode.FREE:
            raise PlanNotForSaleError
        price = plan.price(request.price_key)
        if price is None:
            raise PriceNotFoundError(f"{request.plan_key}/{request.price_key or ''}")
        if request.quantity > 1 and not plan.quantity_allowed:
            violation = FieldViolation("quantity", f"must be 1: the plan {plan.plan_key!r} is sold one at a time")
            raise InvalidFieldsError([violation])
        return _Order(request, plan, price, plan_group_of(plan), fingerprint(request, price.price_key))

    def _is_stale(self, intent: Intent) -> bool:
        return intent.state is IntentState.ABANDONED or (
            intent.state is IntentState.CREATING and intent.create_time < self._now() - RESUME_LIMIT
        )

    # Phase 1 -----------------------------------------------------------------------------------------------------

    async def _begin(self, connection: Connection, order: _Order, price_id: str) -> StoredRequest:
        """Under the customer's lock: give the intent that this request resumes, joins or begins, committed."""
        request = order.request
        await customers.lock(connection, [request.customer_id])
        stored = await checkouts.find_request(connection, request.request_id)
        if stored is not None and stored.fingerprint != order.fingerprint:
            raise RequestIdReusedError
        if stored is not None and not self._is_stale(stored.intent):
            return stored
        facts = await self._guard(connection, order)
        intent = await self._joined_or_cleared(connection, order)
        reused = intent is not None
        if intent is None:
            policy = order.plan.policy
            trial = policy.trial is not None and not (policy.one_trial_per_customer and facts.had_trial)
            intent = self._new_intent(order, price_id, trial=trial)
            await checkouts.insert(connection, intent)
        remembered = await checkouts.insert_request(
            connection, request.request_id, order.fingerprint, intent.intent_id, reused=reused
        )
        if not remembered:  # another customer's call was quicker with this id
            raise RequestIdReusedError
        return StoredRequest(order.fingerprint, reused, intent)

    async def _guard(self, connection: Connection, order: _Order) -> CustomerFacts:
        """Refuse who holds a live subscription of the group; past_due, paused, unpaid and incomplete ones count.

        Gives what the customer has bought so far.
        """
        group = order.plan.group
        rows = await customers.load(connection, [order.request.customer_id])
        row = rows.get(order.request.customer_id)
        if row is None or group is None:
            return NO_FACTS if row is None else row.facts
        index = self._prices.index
        for subscription in row.facts.subscriptions:
            plans = [index.of_price(item.price_id, item.lookup_key) for item in subscription.items]
            held = next((plan for plan in plans if plan and plan.group == group), None)
            if held is not None and subscription.is_live:
                raise AlreadySubscribedError(metadata={"plan_group": group, "plan_key": held.plan_key})
        return row.facts

    async def _joined_or_cleared(self, connection: Connection, order: _Order) -> Intent | None:
        """Give the unfinished intent of the group where it is for the same thing; else give it up, and None."""
        intent = await checkouts.unfinished(connection, order.request.customer_id, order.group)
        if intent is None:
            return None
        same = intent.fingerprint == order.fingerprint and intent.state in {IntentState.CREATING, IntentState.OPEN}
        if same and not self._is_stale(intent) and intent.expire_time >= self._now() + REUSE_MINIMUM_LIFE:
            return intent
        given_up = IntentState.ABANDONED if self._is_stale(intent) else IntentState.SUPERSEDED
        after = IntentState.EXPIRING if intent.state is IntentState.OPEN else given_up
        await checkouts.move(connection, intent.intent_id, intent.state, after)
        return None

    def _new_intent(self, order: _Order, price_id: str, *, trial: bool) -> Intent:
        now, intent_id = self._now(), uuid4()
        price_key = order.price.price_key
        return Intent(
            intent_id=intent_id,
            customer_id=order.request.customer_id,
            plan_key=order.plan.plan_key,
            price_key=price_key,
            plan_group=order.group,
            quantity=order.request.quantity,
            fingerprint=order.fingerprint,
            state=IntentState.CREATING,
            attempt=1,
            request_body=session_body(
                order.request, order.plan, price_key, price_id, intent_id, self._deployment, now, trial=trial
            ),
            stripe_customer_id=None,
            checkout_session_id=None,
            url=None,
            expire_time=now + SESSION_LIFE,
            create_time=now,
        )

    # Phases 2 and 3 ----------------------------------------------------------------------------------------------

    async def _finish(self, order: _Order, intent: Intent) -> CheckoutSession:
        """Bring an intent to its session, or say why there is none."""
        for _ in range(MAX_ROUNDS):
            if intent.state is not IntentState.CREATING:
                return await self._answer(intent)
            await self._expire_superseded(order)
            intent = await self._attempt(order, intent)
        raise StripeUnavailableError

    async def _answer(self, intent: Intent) -> CheckoutSession:
        if intent.state is IntentState.REFUSED:
            raise AlreadySubscribedError(metadata={"plan_group": intent.plan_group.partition(":")[2]})
        if intent.checkout_session_id is None:
            raise CheckoutSupersededError
        return await self._database.run(lambda connection: described(connection, intent))

    async def _expire_superseded(self, order: _Order) -> None:
        """Expire, at Stripe, every session of the group that was given up; refuse where one turns out to be paid."""
        customer_id = order.request.customer_id
        left = await self._database.run(lambda c: checkouts.expiring(c, customer_id, order.group))
        for old in left:
            await self._expire(old)
        # Also where nothing was left: a webhook, or an earlier try of this call, may have settled it meanwhile.
        await self._hear_of_completed(order)

    async def _hear_of_completed(self, order: _Order) -> None:
        """Read what was bought in the group and not heard of yet: a completed session carries no items."""
        customer_id = order.request.customer_id
        sessions = await self._database.run(lambda c: checkouts.unheard(c, customer_id, order.group))
        for session_id in sessions:
            try:
                await self._reads.checkout_session(session_id)
            except (StripeCallError, MalformedError) as error:
                raise _away(error) from error

    async def _expire(self, old: Intent) -> None:
        """Make sure that a session is not payable any more, and fold what became of it."""
        try:
            status = await self._expired(old.checkout_session_id or "")
        except (StripeCallError, MalformedError) as error:
            raise _away(error) from error
        if status is SessionStatus.OPEN:  # Stripe refused for a moment, and the page can still be paid on
            raise StripeUnavailableError
        await self._database.run(
            lambda c: checkouts.move(c, old.intent_id, IntentState.EXPIRING, IntentState.SUPERSEDED)
        )

    async def _expired(self, session_id: str) -> SessionStatus | None:
        """Expire a session and give its status then; None where Stripe denies that it exists, so that nobody can pay it."""
        try:
            return (await self._reads.expire_checkout_session(session_id)).status
        except StripeDefinite as error:
            if error.is_server_error:
                raise
        try:  # it is not open any more: paid just now, or expired
            return (await self._reads.checkout_session(session_id)).status
        except StripeDefinite as error:
            if not error.missing:
                raise
            log.warning("superseded_session_unknown_to_stripe", checkout_session_id=session_id)
            return None

    async def _attempt(self, order: _Order, intent: Intent) -> Intent:
        """Ask Stripe for the session, record the answer, and give the intent as it is then."""
        customer = await self._customers.ensure(order.request.customer_id, order.request.customer_email)
        intent = await self._cleared(order, intent, customer)
        if intent.state is not IntentState.CREATING or intent.stripe_customer_id is None:
            return intent
        body = {**intent.request_body, "customer": intent.stripe_customer_id}
        try:
            made = (await self._stripe.create_checkout_session(body, f"{intent.intent_id}/{intent.attempt}")).object
        except StripeCallError as error:
            return await self._failed(order, intent, error)
        expire_time = datetime.fromtimestamp(made["expires_at"], UTC)
        return await self._record(intent, made["id"], made["url"], expire_time)

    async def _cleared(self, order: _Order, intent: Intent, customer: str) -> Intent:
        """Guard once more, at the last moment before Stripe makes a page, and fix the attempt's Stripe customer."""

        async def clear(connection: Connection) -> Intent:
            await customers.lock(connection, [intent.customer_id])
            await self._guard(connection, order)
            return await checkouts.set_stripe_customer(connection, intent.intent_id, intent.attempt, customer)

        try:
            return await self._database.run(clear)
        except AlreadySubscribedError:
            before, after = IntentState.CREATING, IntentState.REFUSED
            await self._database.run(lambda c: checkouts.move(c, intent.intent_id, before, after))
            raise

    async def _record(self, intent: Intent, session_id: str, url: str, expire_time: datetime) -> Intent:
        """Phase 3: compare and set."""

        async def record(connection: Connection) -> Intent:
            await customers.lock(connection, [intent.customer_id])
            if not await checkouts.open_session(connection, intent.intent_id, session_id, url, expire_time):
                await checkouts.late_session(connection, intent.intent_id, session_id)
            return await checkouts.find(connection, intent.intent_id)

        now = await self._database.run(record)
        if now.state is IntentState.EXPIRING:
            await self._expire(now)
            raise CheckoutSupersededError
        return now

    async def _failed(self, order: _Order, intent: Intent, error: StripeCallError) -> Intent:
        """Decide what a failed request means for the intent: the same attempt later, the next one now, or a refusal."""
        log.warning("checkout_session_not_made", intent_id=str(intent.intent_id), error=str(error))
        match error:
            case StripeBusy(status=409):
                return await self._watched(intent)
            case StripeNoAnswer() | StripeBusy():
                raise StripeUnavailableError from error
            case StripeDenied():
                raise StripeRefusedError from error
            case StripeKeyConflict():
                return await self._next_attempt(order, intent)
            case StripeDefinite(missing_customer=True):
                await self._customers.replace(intent.customer_id, intent.stripe_customer_id or "")
                return await self._next_attempt(order, intent)
        await self._prices.refresh()
        await self._next_attempt(order, intent)
        raise _refusal(order, error) from error

    async def _next_attempt(self, order: _Order, intent: Intent) -> Intent:
        """Commit the next attempt, rendered anew, and give the intent as it is then."""
        price_id = await self._prices.price_id(order.plan, order.price)
        trial = "trial_period_days" in intent.request_body.get("subscription_data", {})
        now, key = self._now(), order.price.price_key
        body = session_body(
            order.request, order.plan, key, price_id, intent.intent_id, self._deployment, now, trial=trial
        )

        async def commit(connection: Connection) -> Intent:
            await checkouts.next_attempt(connection, intent, body, now + SESSION_LIFE)
            return await checkouts.find(connection, intent.intent_id)

        return await self._database.run(commit)

    async def _watched(self, intent: Intent) -> Intent:
        """Wait, a bounded time, for the call that is carrying out this intent right now."""
        for _ in range(IN_PROGRESS_TRIES):
            await asyncio.sleep(IN_PROGRESS_PAUSE_S)
            now = await self._database.run(lambda connection: checkouts.find(connection, intent.intent_id))
            if now.state is not IntentState.CREATING or now.attempt != intent.attempt:
                return now
        raise RequestInProgressError


def _away(error: Exception) -> Exception:
    log.warning("stripe_read_failed", error=str(error))
    return StripeRefusedError() if isinstance(error, StripeDenied) else StripeUnavailableError()


def _refusal(order: _Order, error: StripeCallError) -> Exception:
    if isinstance(error, StripeDefinite):
        if error.is_server_error:
            return StripeUnavailableError()
        if (error.param or "").startswith("line_items"):
            return PriceNotAvailableError(metadata={"lookup_key": order.price.lookup_key})
        return StripeRefusedError(metadata={"stripe_code": error.code} if error.code else None)
    return StripeRefusedError()
