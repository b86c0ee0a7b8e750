"""What is asked of Stripe to change a subscription, step by step; every step is safe to repeat.

A subscription may stand under a schedule, which is where a change at period end waits. Stripe refuses to cancel such a
subscription, and the schedule's next phase would undo a change made now: so each later change lets the schedule go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from billing_service.domain.errors import SubscriptionEndingError, SubscriptionNotLiveError
from billing_service.domain.facts import OVER
from billing_service.domain.subscription import Operation, ScheduledChange
from billing_service.domain.subscription_body import Body, following_phase, id_of, schedule_body
from billing_service.domain.views import SubscriptionStatus
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.storage.subscription_requests import Change
from billing_service.stripe_api.client import StripeApi

_Json = Mapping[str, Any]


class SubscriptionSteps:
    """Asks Stripe for what a change needs, and folds what it answers."""

    def __init__(self, stripe: StripeApi, prices: Prices, reads: Reads) -> None:
        """Keeps nothing between changes."""
        self._stripe = stripe
        self._prices = prices
        self._reads = reads

    async def carry_out(self, change: Change) -> ScheduledChange | None:
        """Have Stripe make a change, and give the one that waits for the end of the period then, if any.

        Raises:
            SubscriptionNotLiveError: it was over already.
            SubscriptionEndingError: it is to end, so that nothing can change at the end of its period.
            StripeCallError: a step failed; those before it had their effect.
            MalformedError: Stripe answered something that is not understood.
        """
        found = await self._reads.subscription_object(change.subscription_id)
        is_over = SubscriptionStatus(found["status"]) in OVER
        if change.operation is Operation.CANCEL_NOW:
            if not is_over:  # else an answer was lost, or somebody else was quicker: it is as it was to be
                await self._cancel(change)
            return None
        if is_over:
            raise SubscriptionNotLiveError
        match change.operation:
            case Operation.UPDATE_AT_PERIOD_END:
                return await self._schedule(change, found)
            case Operation.RESUME:
                return await self._resume(change, found)
            case Operation.CANCEL_AT_PERIOD_END:
                await self._release(change, found)
                await self._update(change, {"cancel_at_period_end": True})
            case Operation.UPDATE_NOW:
                await self._release(change, found)
                await self._update(change, dict(change.request_body))
        return None

    async def _cancel(self, change: Change) -> None:
        subscription_id = change.subscription_id
        await self._reads.changed_subscription(
            subscription_id, lambda: self._stripe.cancel_subscription(subscription_id)
        )

    async def _update(self, change: Change, body: Body) -> None:
        key = _key(change, "update")
        await self._reads.changed_subscription(
            change.subscription_id, lambda: self._stripe.update_subscription(change.subscription_id, body, key)
        )

    async def _release(self, change: Change, found: _Json) -> None:
        if found.get("schedule"):
            await self._stripe.release_schedule(id_of(found["schedule"]), _key(change, "release"))

    async def _resume(self, change: Change, found: _Json) -> ScheduledChange | None:
        """Take a cancellation back by the mark it carries; the portal sets `cancel_at` alone.

        https://docs.stripe.com/billing/subscriptions/cancel
        """
        if found["cancel_at_period_end"]:
            await self._update(change, {"cancel_at_period_end": False})
        elif found["cancel_at"] is not None:
            await self._update(change, {"cancel_at": ""})
        elif found.get("schedule"):
            return self._scheduled(change, (await self._stripe.get_schedule(id_of(found["schedule"]))).object)
        return None

    async def _schedule(self, change: Change, found: _Json) -> ScheduledChange | None:
        """Have the change wait under the subscription's schedule, made where there is none."""
        if found["cancel_at_period_end"] or found["cancel_at"] is not None:
            raise SubscriptionEndingError
        item = next(one for one in found["items"]["data"] if one["id"] == change.item_id)
        asked = change.request_body["item"]
        if (asked["price"], asked["quantity"]) == (item["price"]["id"], item["quantity"]):
            await self._release(change, found)  # what is asked for is what there is: nothing is to wait any more
            return None
        if found.get("schedule"):
            schedule = (await self._stripe.get_schedule(id_of(found["schedule"]))).object
        else:
            schedule = (await self._stripe.create_schedule(change.subscription_id, _key(change, "schedule"))).object
        body = schedule_body(schedule, await self._interval(found, asked["price"]), change.request_body)
        answer = await self._stripe.update_schedule(schedule["id"], body, _key(change, "phases"))
        return self._scheduled(change, answer.object)

    async def _interval(self, found: _Json, price_id: str) -> _Json:
        """Give how long a period of a price is."""
        for item in found["items"]["data"]:
            if item["price"]["id"] == price_id:
                return _recurring(item["price"])
        return _recurring((await self._stripe.get_price(price_id)).object)

    def _scheduled(self, change: Change, schedule: _Json) -> ScheduledChange | None:
        """Give what a schedule's next phase makes of the item's plan."""
        following = following_phase(schedule)
        if following is None:
            return None
        asked = change.request_body.get("item", {})
        items = following["items"]
        item = next((one for one in items if id_of(one["price"]) == asked.get("price")), items[0])
        price_id = id_of(item["price"])
        plan = self._prices.index.of_price(price_id, None)
        return ScheduledChange(
            plan_key=plan.plan_key if plan else None,
            price_key=self._prices.price_key_of(price_id, None),
            quantity=item.get("quantity", 1),
            effective_time=datetime.fromtimestamp(following["start_date"], UTC),
        )


def _recurring(price: _Json) -> _Json:
    recurring: _Json = price["recurring"]
    return recurring


def _key(change: Change, step: str) -> str:
    return f"{change.intent_id}/{change.attempt}/{step}"
