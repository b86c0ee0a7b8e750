"""Changes a subscription once per request id, whatever crashes in between: update, cancel, resume.

Three phases, no network call inside a transaction:

1. Under the customer's lock: check, give up an older change that was left unfinished, and commit this one with the body
   that Stripe will be sent.
2. Stripe, by `SubscriptionSteps`. The idempotency keys are the intent and the attempt: the same attempt after a lost
   answer, the next one after a definite error. What Stripe answers is folded as a read.
3. Compare and set the answer, which a replay gets again.

A crash anywhere is resumed by the next call with the same request id. A different change of the same subscription waits
for one that is being carried out, and supersedes one that was left: carried out later it would undo what came after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from billing_service.deadline import deadline_after
from billing_service.domain.errors import (
    DatabaseUnavailableError,
    PaymentFailedError,
    PriceNotAvailableError,
    RequestIdReusedError,
    RequestInProgressError,
    StripeRefusedError,
    StripeUnavailableError,
    SubscriptionChangeSupersededError,
    SubscriptionEndingError,
    SubscriptionNotLiveError,
)
from billing_service.domain.facts import NO_FACTS, CustomerFacts, SubscriptionFacts
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.subscription import ChangeRequest, Operation, ScheduledChange, Subscription, describe
from billing_service.domain.subscription_body import Body, change_fingerprint, next_phase_body, update_body
from billing_service.domain.subscription_target import Target, find_subscription, main_item, target_of
from billing_service.domain.views import ItemView
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.subscription_steps import SubscriptionSteps
from billing_service.storage import customers, subscription_requests
from billing_service.storage.database import Connection, Database
from billing_service.storage.subscription_requests import Change, ChangeState
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
BUSY = timedelta(seconds=60)  # longer than a call may take: its deadline is capped at that
MAX_ROUNDS = 3  # of phase 2 in one call: each key conflict, and each wait for another call, costs one
IN_PROGRESS_TRIES = 20  # looks at a change that another call is carrying out
IN_PROGRESS_PAUSE_S = 0.1
LAST_WORD_S = 0.2  # less than what the listener leaves between our deadline and the caller's

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Draft:
    """What is to be committed: the item that changes, and what Stripe will be sent."""

    item: ItemView
    body: Body


class ChangeSubscription:
    """Carries a request through the three phases."""

    def __init__(
        self, database: Database, stripe: StripeApi, prices: Prices, reads: Reads, now: Callable[[], datetime]
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._steps = SubscriptionSteps(stripe, prices, reads)
        self._now = now

    async def __call__(self, request: ChangeRequest) -> Subscription:
        """Give the subscription as it was when it had been changed.

        Raises:
            BillingError: the reasons that the contract lists for UpdateSubscription, CancelSubscription, ResumeSubscription.
        """
        fingerprint = change_fingerprint(request)
        change = await self._find(request.request_id)
        if change is None or self._is_stale(change):
            draft = await self._draft(request)
            change = await self._database.run(lambda c: self._begin(c, request, fingerprint, draft))
        elif change.fingerprint != fingerprint:
            raise RequestIdReusedError
        for _ in range(MAX_ROUNDS):
            if change.state is not ChangeState.CHANGING:
                break
            change = await self._carry_out(change)
        if change.state is ChangeState.SUPERSEDED:
            raise SubscriptionChangeSupersededError
        if change.answer is None:
            raise StripeUnavailableError
        return change.answer

    async def _find(self, request_id: str) -> Change | None:
        return await self._database.run(lambda connection: subscription_requests.find(connection, request_id))

    def _is_stale(self, change: Change) -> bool:
        return change.state is ChangeState.CHANGING and change.create_time < self._now() - RESUME_LIMIT

    # Phase 1 -----------------------------------------------------------------------------------------------------

    async def _draft(self, request: ChangeRequest) -> _Draft:
        """Check the request against what is known, and render it."""
        facts = await self._database.run(lambda connection: _facts(connection, request.customer_id))
        subscription = find_subscription(facts, request.subscription_id)
        plans = await self._prices.plans_for(facts)
        if request.wanted is None:
            return _Draft(main_item(subscription, plans), {})
        at_period_end = request.operation is Operation.UPDATE_AT_PERIOD_END
        target = target_of(request.wanted, subscription, plans, self._price_key, at_period_end=at_period_end)
        price_id = await self._price_id(target)
        render = next_phase_body if at_period_end else update_body
        return _Draft(target.item, render(target, price_id))

    def _price_key(self, item: ItemView) -> str | None:
        return self._prices.price_key_of(item.price_id, item.lookup_key)

    async def _price_id(self, target: Target) -> str | None:
        """Give the Stripe price to change to; None where the item stays on its own."""
        if target.price is None:
            return None
        price_id = await self._prices.price_id(target.plan, target.price)
        return None if price_id == target.item.price_id else price_id

    async def _begin(self, connection: Connection, request: ChangeRequest, fingerprint: bytes, draft: _Draft) -> Change:
        """Under the customer's lock: give the change that this request resumes or begins, committed."""
        await customers.lock(connection, [request.customer_id])
        change = await subscription_requests.find(connection, request.request_id)
        if change is not None and change.fingerprint != fingerprint:
            raise RequestIdReusedError
        if change is not None and not self._is_stale(change):
            return change
        if change is not None:
            await subscription_requests.forget(connection, change.intent_id)
        find_subscription(await _facts(connection, request.customer_id), request.subscription_id)
        await self._clear(connection, request.subscription_id)
        change = self._new_change(request, fingerprint, draft)
        if not await subscription_requests.insert(
            connection, change
        ):  # another customer's call was quicker with this id
            raise RequestIdReusedError
        return change

    async def _clear(self, connection: Connection, subscription_id: str) -> None:
        """Give up an unfinished change of the subscription, unless somebody is carrying it out right now."""
        other = await subscription_requests.unfinished(connection, subscription_id)
        if other is None:
            return
        if other.busy_until is not None and other.busy_until > self._now():
            raise RequestInProgressError("Another change of this subscription is being carried out; call again.")
        await subscription_requests.supersede(connection, other.intent_id)

    def _new_change(self, request: ChangeRequest, fingerprint: bytes, draft: _Draft) -> Change:
        now = self._now()
        return Change(
            request_id=request.request_id,
            intent_id=uuid4(),
            fingerprint=fingerprint,
            customer_id=request.customer_id,
            subscription_id=request.subscription_id,
            item_id=draft.item.item_id,
            operation=request.operation,
            state=ChangeState.CHANGING,
            attempt=1,
            request_body=draft.body,
            busy_until=now + BUSY,
            answer=None,
            create_time=now,
        )

    # Phases 2 and 3 ----------------------------------------------------------------------------------------------

    async def _carry_out(self, change: Change) -> Change:
        """Have Stripe do it, record the answer, and give the change as it is then."""
        await self._hold(change, self._now() + BUSY)
        try:
            scheduled = await self._steps.carry_out(change)
        except (SubscriptionNotLiveError, SubscriptionEndingError):
            await self._forget(change)
            raise
        except MalformedError as error:
            log.warning("subscription_not_understood", subscription_id=change.subscription_id, error=str(error))
            await self._let_others_in(change)
            raise StripeUnavailableError from error
        except StripeCallError as error:
            return await self._failed(change, error)
        return await self._record(change, scheduled)

    async def _record(self, change: Change, scheduled: ScheduledChange | None) -> Change:
        """Phase 3: compare and set."""

        async def record(connection: Connection) -> Change:
            await customers.lock(connection, [change.customer_id])
            answer = self._answer(change, await _facts(connection, change.customer_id), scheduled)
            await subscription_requests.finish(connection, change.intent_id, answer)
            found = await subscription_requests.find(connection, change.request_id)
            if found is None:  # another call with this id was refused meanwhile
                raise RequestInProgressError
            return found

        return await self._database.run(record)

    def _answer(self, change: Change, facts: CustomerFacts, scheduled: ScheduledChange | None) -> Subscription:
        subscription = next(s for s in facts.subscriptions if s.subscription_id == change.subscription_id)
        item = _item(subscription, change.item_id)
        plans, price_key = self._prices.index, self._price_key(item)
        return describe(change.customer_id, facts, subscription, item, plans, price_key, scheduled, self._now())

    async def _failed(self, change: Change, error: StripeCallError) -> Change:
        """Decide what a failed step means for the change: the same attempt later, the next one now, or a refusal."""
        log.warning("subscription_not_changed", intent_id=str(change.intent_id), error=str(error))
        match error:
            case StripeBusy(status=409):
                return await self._watched(change)
            case StripeNoAnswer() | StripeBusy():
                await self._let_others_in(change)
                raise StripeUnavailableError from error
            case StripeKeyConflict():
                return await self._next_attempt(change)
            case StripeDefinite() if error.is_server_error or error.payment_failed:
                await self._next_attempt(change)
                await self._let_others_in(change)
                raise refusal(error) from error
        await self._forget(change)
        await self._prices.refresh()
        raise refusal(error) from error

    async def _next_attempt(self, change: Change) -> Change:
        async def commit(connection: Connection) -> Change:
            await subscription_requests.next_attempt(connection, change)
            return await subscription_requests.find(connection, change.request_id) or change

        return await self._database.run(commit)

    async def _hold(self, change: Change, until: datetime | None) -> None:
        await self._database.run(lambda c: subscription_requests.hold(c, change.intent_id, until))

    async def _let_others_in(self, change: Change) -> None:
        """Say that nobody carries the change out now. The caller's deadline may have passed, and the hold ends by itself."""
        with suppress(DatabaseUnavailableError), deadline_after(LAST_WORD_S):
            await self._hold(change, None)

    async def _forget(self, change: Change) -> None:
        await self._database.run(lambda c: subscription_requests.forget(c, change.intent_id))

    async def _watched(self, change: Change) -> Change:
        """Wait, a bounded time, for the call that is carrying out this change right now."""
        for _ in range(IN_PROGRESS_TRIES):
            await asyncio.sleep(IN_PROGRESS_PAUSE_S)
            now = await self._find(change.request_id)
            if now is None:
                break
            if now.state is not ChangeState.CHANGING or now.attempt != change.attempt:
                return now
        raise RequestInProgressError


async def _facts(connection: Connection, customer_id: str) -> CustomerFacts:
    row = (await customers.load(connection, [customer_id])).get(customer_id)
    return NO_FACTS if row is None else row.facts


def _item(subscription: SubscriptionFacts, item_id: str) -> ItemView:
    """Give the item that was changed, or the first where somebody has removed it meanwhile."""
    return next((item for item in subscription.items if item.item_id == item_id), subscription.items[0])


def refusal(error: StripeCallError) -> Exception:
    """Give the error of ours for one of Stripe's about a subscription."""
    if isinstance(error, StripeNoAnswer | StripeBusy):
        return StripeUnavailableError()
    if isinstance(error, StripeDenied) or not isinstance(error, StripeDefinite):
        return StripeRefusedError()
    if error.is_server_error:
        return StripeUnavailableError()
    metadata = {"stripe_code": error.code} if error.code else None
    if error.payment_failed:
        return PaymentFailedError(metadata=metadata)
    if "price" in (error.param or ""):
        return PriceNotAvailableError()
    return StripeRefusedError(metadata=metadata)
