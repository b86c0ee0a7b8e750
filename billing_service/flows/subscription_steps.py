"""What is asked of Stripe to change a subscription, step by step; every step is safe to repeat.

A subscription may stand under a schedule, which is where a change at period end waits. Its next phase would undo a change
made now, and Stripe refuses to cancel what stands under one: so each later change lets the schedule go. A change now does
so once it is made, because a payment that fails is to leave everything as it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import structlog

from billing_service.domain.errors import (
    StripeUnavailableError,
    SubscriptionEndingError,
    SubscriptionNotLiveError,
)
from billing_service.domain.subscription import Operation, ScheduledChange
from billing_service.domain.subscription_body import Body
from billing_service.domain.subscription_schedule import (
    ACTIVE,
    changed_item,
    following_phase,
    id_of,
    schedule_body,
)
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.subscription_drafts import find_item, is_over
from billing_service.logs import named
from billing_service.storage.subscription_requests import Change
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite
from billing_service.stripe_api.sdk import Read

_Json = Mapping[str, Any]
log = structlog.get_logger(__name__)


class StepError(Exception):
    """A request that was to change something at Stripe failed. A read that failed beside it is a StripeCallError."""

    def __init__(self, change: Change, error: StripeCallError) -> None:
        """Take the change with the attempt whose key was sent, and what came of it."""
        self.change = change
        self.error = error
        super().__init__(str(error))


class OutdatedError(Exception):
    """The subscription is not what a change was drafted for any more, and nothing came of the change: it is to be drafted anew."""

    def __init__(self, change: Change) -> None:
        """Take the change with the attempt that was drafted so."""
        self.change = change
        super().__init__("the subscription has changed")


class SubscriptionSteps:
    """Asks Stripe for what a change needs, and folds what it answers."""

    def __init__(self, stripe: StripeApi, prices: Prices, reads: Reads) -> None:
        """Keeps nothing between changes."""
        self._stripe = stripe
        self._prices = prices
        self._reads = reads

    async def carry_out(self, change: Change, found: _Json, schedule: _Json | None) -> ScheduledChange | None:
        """Have Stripe make a change, and give the one that waits for the end of the period then, if any.

        `found` is the subscription as Stripe gave it just now, and `schedule` the one of ours that it stands under;
        `change` has its body.

        Raises:
            SubscriptionNotLiveError: it was over already.
            SubscriptionEndingError: it is to end, so that nothing can change at the end of its period.
            OutdatedError: what was to change is not part of it any more, or it has a schedule since.
            StripeUnavailableError: it was changed, and paid, and the schedule whose next phase would undo that still stands.
            StepError: a step failed; those before it had their effect.
            StripeCallError: something could not be read.
            MalformedError: Stripe answered something that is not understood.
        """
        if change.operation is Operation.CANCEL_NOW:
            if not is_over(found):  # else an answer was lost, or somebody else was quicker: it is as it was to be
                await self._cancel(change)
            return None
        if is_over(found):
            raise SubscriptionNotLiveError
        body = dict(change.request_body or {})
        match change.operation:
            case Operation.UPDATE_AT_PERIOD_END:
                return await self._wait(change, found, schedule)
            case Operation.RESUME:
                await self._resume(change, body)
                return None if schedule is None else self._scheduled(schedule, change)
            case Operation.CANCEL_AT_PERIOD_END:
                await self._release(change, schedule)
                await self._update(change, body)
            case Operation.UPDATE_NOW:
                await self._update(change, body)
                await self.release_paid(change, schedule)
        return None

    async def release_paid(self, change: Change, schedule: _Json | None) -> None:
        """Let the schedule go after a change that is paid: whatever fails, the change is not given up, and goes on here.

        Raises:
            StripeUnavailableError: the schedule whose next phase would undo the change still stands.
        """
        try:
            await self._release(change, schedule)
        except (StepError, StripeCallError) as failed:
            error = failed.error if isinstance(failed, StepError) else failed
            log.warning("schedule_not_released", subscription_id=change.subscription_id, error=named(error))
            raise StripeUnavailableError from error

    async def _cancel(self, change: Change) -> None:
        subscription_id = change.subscription_id
        try:
            await self._reads.changed_subscription(
                subscription_id, lambda: _sent(change, self._stripe.cancel_subscription(subscription_id))
            )
        except StepError as failed:
            if not _is_refused(failed.error):
                raise
            # A DELETE takes no key: another call of the same request may have been quicker.
            found = await self._reads.subscription_object(subscription_id)
            if not is_over(found):
                raise

    async def _update(self, change: Change, body: Body) -> None:
        key, subscription_id = _key(change, "update"), change.subscription_id
        await self._reads.changed_subscription(
            subscription_id, lambda: _sent(change, self._stripe.update_subscription(subscription_id, body, key))
        )

    async def _resume(self, change: Change, body: Body) -> None:
        if "billing_cycle_anchor" in body:
            key, subscription_id = _key(change, "resume"), change.subscription_id
            await self._reads.changed_subscription(
                subscription_id, lambda: _sent(change, self._stripe.resume_subscription(subscription_id, body, key))
            )
        elif body:
            await self._update(change, body)

    async def _release(self, change: Change, schedule: _Json | None) -> None:
        """Let a schedule go, with a key of this call alone: twice is as once, and a refusal is not to be replayed to the next."""
        if schedule is None:
            return
        try:
            await _sent(change, self._stripe.release_schedule(schedule["id"], f"{change.intent_id}/{uuid4()}/release"))
        except StepError as failed:
            if not isinstance(failed.error, StripeDefinite):
                raise
            # Another call of the same request, or somebody in the dashboard, may have been quicker.
            if (await self._stripe.get_schedule(schedule["id"])).object["status"] == ACTIVE:
                raise

    async def _wait(self, change: Change, found: _Json, schedule: _Json | None) -> ScheduledChange | None:
        """Have the change wait under the subscription's schedule, made where there is none."""
        if found["cancel_at_period_end"] or (found["cancel_at"] is not None and schedule is None):
            raise SubscriptionEndingError
        item, body = find_item(found, change.item_id), change.request_body or {}
        asked = body["item"]
        if item is None:
            return self._waiting(schedule, change)
        if (asked["price"], asked["quantity"]) == (item["price"]["id"], item["quantity"]):
            await self._release(change, schedule)  # what is asked for is what there is: nothing is to wait any more
            return None
        if schedule is None:
            schedule = await self._made_schedule(change)
        if schedule["status"] != ACTIVE:  # made by a call before this one, and let go since by somebody else
            return None
        rendered = schedule_body(schedule, found, item, await self._period(found, asked["price"]), body)
        answer = await _sent(change, self._stripe.update_schedule(schedule["id"], rendered, _key(change, "phases")))
        return self._scheduled(await self._as_it_is(answer), change)

    async def _made_schedule(self, change: Change) -> _Json:
        """Make the schedule of a subscription that has none.

        Raises:
            SubscriptionNotLiveError: it ended since it was read.
            OutdatedError: it has one since, ours or another's.
            StepError, StripeCallError: as `carry_out` says.
        """
        try:
            made = await _sent(change, self._stripe.create_schedule(change.subscription_id, _key(change, "schedule")))
        except StepError as failed:
            if not _is_refused(failed.error):
                raise
            found = await self._reads.subscription_object(change.subscription_id)
            if is_over(found):
                raise SubscriptionNotLiveError from failed
            if found["schedule"] is not None:
                raise OutdatedError(change) from failed
            raise
        return await self._as_it_is(made)

    def _waiting(self, schedule: _Json | None, change: Change) -> ScheduledChange:
        """Give a change that waits already, unheard, though what it changes has been removed since. Raises OutdatedError where none does."""
        asked = (change.request_body or {})["item"]
        following = (schedule and following_phase(schedule)) or {"items": ()}
        held = [(id_of(one["price"]), one.get("quantity", 1)) for one in following["items"]]
        waiting = (
            self._scheduled(schedule, change) if schedule and (asked["price"], asked["quantity"]) in held else None
        )
        if waiting is None:
            raise OutdatedError(change)
        return waiting

    async def _as_it_is(self, answer: Read) -> _Json:
        """Give a schedule from an answer; one that Stripe replays says what was, so it is read anew."""
        schedule: _Json = answer.object
        return (await self._stripe.get_schedule(schedule["id"])).object if answer.replayed else schedule

    async def _period(self, found: _Json, price_id: str) -> _Json:
        """Give how long a period of a price is."""
        held = next((one["price"] for one in found["items"]["data"] if one["price"]["id"] == price_id), None)
        recurring: _Json = (held or (await self._stripe.get_price(price_id)).object)["recurring"]
        return recurring

    def _scheduled(self, schedule: _Json, change: Change) -> ScheduledChange | None:
        """Give what a schedule's next phase makes of the plan that the change is about."""
        following = following_phase(schedule)
        item = changed_item(schedule, (change.request_body or {}).get("item", {}).get("price"))
        if following is None or item is None:
            return None
        price_id = id_of(item["price"])
        plan = self._prices.index.of_price(price_id, None)
        return ScheduledChange(
            plan_key=plan.plan_key if plan else None,
            price_key=self._prices.price_key_of(price_id, None),
            quantity=item.get("quantity", 1),
            effective_time=datetime.fromtimestamp(following["start_date"], UTC),
        )


async def _sent(change: Change, call: Awaitable[Read]) -> Read:
    """Await a request that changes something, so that its failure is told from that of a read. Raises StepError."""
    try:
        return await call
    except StripeCallError as error:
        raise StepError(change, error) from error


def _is_refused(error: StripeCallError) -> bool:
    return isinstance(error, StripeDefinite) and not error.is_server_error and not error.payment_failed


def _key(change: Change, step: str) -> str:
    return f"{change.intent_id}/{change.attempt}/{step}"
