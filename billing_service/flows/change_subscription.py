"""Changes a subscription once per request id, whatever crashes in between: update, cancel, resume.

Three phases, no network call inside a transaction:

1. Under the customer's lock: check, give up an older change that was left unfinished, and commit this one.
2. Stripe: read the subscription, render what it will be sent and commit that too, then `SubscriptionSteps`. The idempotency
   keys are the intent and the attempt: the same attempt, and what it sends, after a lost answer; the next one, for which
   an update is checked and rendered anew, after a definite answer to a request that carried such a key. A read that fails
   says nothing of it. What Stripe answers is folded as a read.
3. Compare and set the answer, which a replay gets again.

A crash anywhere is resumed by the next call with the same request id. A different change of the same subscription waits
for one that is being carried out, and supersedes one that was left: carried out later it would undo what came after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from billing_service.domain.errors import (
    BillingError,
    PaymentFailedError,
    PriceNotAvailableError,
    RequestIdReusedError,
    RequestInProgressError,
    StripeRefusedError,
    StripeUnavailableError,
    SubscriptionChangeSupersededError,
    SubscriptionNotFoundError,
    SubscriptionNotLiveError,
    UnavailableError,
)
from billing_service.domain.facts import CustomerFacts, SubscriptionFacts
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.subscription import ChangeRequest, Operation, ScheduledChange, Subscription, describe
from billing_service.domain.subscription_body import change_fingerprint
from billing_service.domain.subscription_target import own_subscription
from billing_service.domain.views import ItemView
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.subscription_drafts import SubscriptionDrafts, is_over, shows
from billing_service.flows.subscription_intents import SubscriptionIntents
from billing_service.flows.subscription_steps import OutdatedError, StepError, SubscriptionSteps
from billing_service.logs import named
from billing_service.storage.database import Database
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

MAX_ROUNDS = 4  # of phase 2 in one call: a price that moved, a key conflict, and each wait for another call cost one
IN_PROGRESS_TRIES = 20  # looks at a change that another call is carrying out
IN_PROGRESS_PAUSE_S = 0.1

log = structlog.get_logger(__name__)


class ChangeSubscription:
    """Carries a request through the three phases."""

    def __init__(
        self, database: Database, stripe: StripeApi, prices: Prices, reads: Reads, now: Callable[[], datetime]
    ) -> None:
        """`now` is the one clock of the process."""
        self._prices = prices
        self._intents = SubscriptionIntents(database, now)
        self._drafts = SubscriptionDrafts(database, stripe, prices, reads)
        self._steps = SubscriptionSteps(stripe, prices, reads)
        self._now = now

    async def __call__(self, request: ChangeRequest) -> Subscription:
        """Give the subscription as it was when it had been changed.

        Raises:
            BillingError: the reasons that the contract lists for UpdateSubscription, CancelSubscription, ResumeSubscription.
        """
        fingerprint = change_fingerprint(request)
        change = await self._intents.find(request.request_id)
        if change is None or self._intents.is_stale(change):
            change = await self._begun(request, fingerprint)
        elif change.fingerprint != fingerprint:
            raise RequestIdReusedError
        for _ in range(MAX_ROUNDS):
            if change.state is not ChangeState.CHANGING:
                break
            change = await self._round(request, change)
        if change.state is ChangeState.SUPERSEDED:
            raise SubscriptionChangeSupersededError
        if change.answer is None:
            raise StripeUnavailableError
        return change.answer

    async def _begun(self, request: ChangeRequest, fingerprint: bytes) -> Change:
        """Phase 1. What the customer has may already be what another call of this request has made of it."""
        try:
            await self._drafts.check(request)
        except BillingError:
            if await self._intents.find(request.request_id) is None:
                raise
        return await self._intents.begin(request, fingerprint)

    async def _round(self, request: ChangeRequest, change: Change) -> Change:
        """Carry a change out while others are kept away, and give it as it is then."""
        held_until = await self._intents.hold(change)
        if held_until is None:
            return await self._intents.again(change)
        try:
            return await self._carry_out(request, change)
        except OutdatedError as outdated:
            return await self._next_attempt(outdated.change)
        except StepError as failed:
            log.warning("subscription_not_changed", intent_id=str(change.intent_id), error=named(failed.error))
            return await self._failed(request, failed, held_until)
        except StripeCallError as error:
            log.warning("subscription_not_read", intent_id=str(change.intent_id), error=named(error))
            await self._leave(change, refusal(error), held_until)
            raise refusal(error) from error
        except MalformedError as error:
            log.warning("subscription_not_understood", subscription_id=change.subscription_id, error=named(error))
            await self._intents.let_others_in(change, held_until)
            raise StripeUnavailableError from error
        except RequestInProgressError:
            raise
        except BillingError as error:
            await self._leave(change, error, held_until)
            raise

    async def _leave(self, change: Change, error: BillingError, held_until: datetime) -> None:
        """Drop a change that was refused where nothing can have come of it, or can any more; else keep it to be resumed."""
        if isinstance(error, SubscriptionNotFoundError | SubscriptionNotLiveError):
            await self._intents.forget(change)
        elif not isinstance(error, UnavailableError):
            await self._intents.forget_unprepared(change)
        await self._intents.let_others_in(change, held_until)

    async def _carry_out(self, request: ChangeRequest, change: Change) -> Change:
        """Phases 2 and 3. A change now whose schedule is to be let go after it is looked after until it is done."""
        found = await self._drafts.fresh(change.subscription_id)
        schedule = None if change.operation is Operation.CANCEL_NOW else await self._drafts.own_schedule(found)
        change = await self._prepared(request, change, found)
        if change.state is not ChangeState.CHANGING or change.request_body is None:
            return change
        if change.operation is Operation.UPDATE_NOW and schedule is not None:
            # Before anything is paid: `finish_left` lets the schedule go in any case.
            await self._intents.look_after(change)
        return await self._answered(change, await self._steps.carry_out(change, found, schedule))

    async def finish_left(self, subscription_id: str) -> None:
        """Finish a change now that was made, and paid, by a call that did not get to its end and that nobody has repeated.

        What waits under a schedule would undo it. A change that the subscription does not show is its caller's to repeat.

        Raises:
            RequestInProgressError: somebody is carrying it out, and may not get to the end.
            UnavailableError, StripeCallError, MalformedError: it could not be finished now.
        """
        change = await self._intents.unfinished(subscription_id)
        if change is None or change.operation is not Operation.UPDATE_NOW or change.request_body is None:
            return
        held_until = await self._intents.take_over(change)
        try:
            await self._finish_made(change)
        except BillingError as error:
            if isinstance(error, UnavailableError):
                raise
            log.warning("change_left_to_its_caller", intent_id=str(change.intent_id), error=named(error))
        finally:
            await self._intents.let_others_in(change, held_until)

    async def _finish_made(self, change: Change) -> None:
        found = await self._drafts.fresh(change.subscription_id)
        await self._drafts.known(change.customer_id, change.subscription_id)  # still theirs
        if is_over(found) or not shows(found, change):
            return
        await self._steps.release_paid(change, await self._drafts.own_schedule(found))
        await self._answered(change, None)
        log.info("change_finished_for_its_caller", intent_id=str(change.intent_id))

    async def _answered(self, change: Change, scheduled: ScheduledChange | None) -> Change:
        """Phase 3: store what the subscription is by now, and give the change as it is then."""
        plans = await self._prices.plans_for(await self._intents.facts(change.customer_id))
        return await self._intents.finish(change, lambda facts: self._answer(change, facts, plans, scheduled))

    async def _prepared(self, request: ChangeRequest, change: Change, found: Mapping[str, Any]) -> Change:
        """Fix what Stripe is sent, once for all calls of this attempt; what may have been sent already stays as it is."""
        if change.request_body is not None:
            await self._drafts.recheck(change, found)
            return change
        try:
            draft = await self._drafts.draft(request, found)
        except UnavailableError:
            raise
        except BillingError:
            if await self._intents.forget_unprepared(change) or await self._intents.find(change.request_id) is None:
                raise
            return await self._intents.again(change)  # another call was quicker, and this is what it made
        return await self._intents.prepare(change, draft.item_id, draft.body)

    def _answer(
        self, change: Change, facts: CustomerFacts, plans: PlanIndex, scheduled: ScheduledChange | None
    ) -> Subscription:
        subscription = own_subscription(facts, change.subscription_id)
        item = _item(subscription, change.item_id)
        price_key = self._prices.price_key_of(item.price_id, item.lookup_key)
        return describe(change.customer_id, facts, subscription, item, plans, price_key, scheduled, self._now())

    async def _failed(self, request: ChangeRequest, failed: StepError, held_until: datetime) -> Change:
        """Decide what a failed step means for the change: the same attempt later, the next one now or later, or a refusal."""
        change, error = failed.change, failed.error
        match error:
            case StripeBusy(status=409):
                return await self._watched(change)
            case StripeNoAnswer() | StripeBusy() | StripeDenied():
                pass
            case StripeKeyConflict():
                return await self._next_attempt(change)
            case StripeDefinite() if error.is_server_error or error.payment_failed:
                await self._intents.end_attempt(change)
            case _:
                if await self._sold_otherwise(request, failed):
                    return await self._next_attempt(change)
                await self._intents.forget(change)
        await self._intents.let_others_in(change, held_until)
        raise refusal(error) from error

    async def _next_attempt(self, change: Change) -> Change:
        await self._intents.end_attempt(change)
        return await self._intents.again(change)

    async def _sold_otherwise(self, request: ChangeRequest, failed: StepError) -> bool:
        """Say whether Stripe refused a price that has moved since we last asked: then there is another to ask for."""
        if not is_about_price(failed.error):
            return False
        await self._prices.refresh()
        return await self._drafts.has_another_price(request, failed.change)

    async def _watched(self, change: Change) -> Change:
        """Wait, a bounded time, for the call that is carrying out this change right now."""
        for _ in range(IN_PROGRESS_TRIES):
            await asyncio.sleep(IN_PROGRESS_PAUSE_S)
            now = await self._intents.again(change)
            if now.state is not ChangeState.CHANGING or now.attempt != change.attempt:
                return now
        raise RequestInProgressError


def _item(subscription: SubscriptionFacts, item_id: str | None) -> ItemView:
    """Give the item that was changed, or the first where somebody has removed it meanwhile."""
    return next((item for item in subscription.items if item.item_id == item_id), subscription.items[0])


def is_about_price(error: StripeCallError) -> bool:
    """Say whether Stripe refused the price that a request named."""
    return isinstance(error, StripeDefinite) and "price" in (error.param or "")


def refusal(error: StripeCallError) -> BillingError:
    """Give the error of ours for one of Stripe's about a subscription."""
    if isinstance(error, StripeNoAnswer | StripeBusy | StripeKeyConflict):
        return StripeUnavailableError()
    if isinstance(error, StripeDenied) or not isinstance(error, StripeDefinite):
        return StripeRefusedError()
    if error.is_server_error:
        return StripeUnavailableError()
    metadata = {"stripe_code": error.code} if error.code else None
    if error.payment_failed:
        return PaymentFailedError(metadata=metadata)
    if is_about_price(error):
        return PriceNotAvailableError()
    return StripeRefusedError(metadata=metadata)
