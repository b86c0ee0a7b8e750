"""What a change of a subscription means, worked out from what Stripe says of it at this moment, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from billing_service.domain.errors import (
    BillingError,
    SubscriptionChangePendingError,
    SubscriptionNotFoundError,
    SubscriptionNotLiveError,
    UnavailableError,
)
from billing_service.domain.facts import NO_FACTS, OVER, SubscriptionFacts
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import observe
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.subscription import ChangeRequest, Operation, Wanted
from billing_service.domain.subscription_body import Body, next_phase_body, resume_body, update_body
from billing_service.domain.subscription_schedule import id_of, is_ours
from billing_service.domain.subscription_target import (
    Target,
    main_item,
    own_subscription,
    require_changeable,
    require_live,
    target_of,
)
from billing_service.domain.views import ItemView, ObjectKind, SubscriptionStatus
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.storage import customers
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Database
from billing_service.storage.subscription_requests import Change
from billing_service.stripe_api.client import StripeApi


@dataclass(frozen=True)
class Known:
    """A customer's subscription, as far as it is known, and what its prices stand for."""

    row: CustomerRow
    plans: PlanIndex
    subscription: SubscriptionFacts


@dataclass(frozen=True)
class Draft:
    """What is to be committed: the item by which the answer describes the subscription, and what Stripe will be sent."""

    item_id: str
    body: Body


class SubscriptionDrafts:
    """Works out what is to become of a subscription."""

    def __init__(self, database: Database, stripe: StripeApi, prices: Prices, reads: Reads) -> None:
        """Keeps nothing between calls."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._reads = reads

    async def known(self, customer_id: str, subscription_id: str) -> Known:
        """Give a subscription of the customer's own, without asking Stripe.

        Raises:
            SubscriptionNotFoundError: the customer has none of this id; somebody else's is not found either.
        """
        rows = await self._database.run(lambda connection: customers.load(connection, [customer_id]))
        row = rows.get(customer_id, CustomerRow(customer_id, 0, NO_FACTS))
        subscription = own_subscription(row.facts, subscription_id)
        return Known(row, await self._prices.plans_for(row.facts), subscription)

    async def fresh(self, subscription_id: str) -> Mapping[str, Any]:
        """Read a subscription from Stripe, fold it, and give Stripe's JSON.

        Raises:
            SubscriptionNotFoundError: its metadata says that another deployment sold it.
            StripeCallError: Stripe did not answer with it.
            MalformedError: it answered something that is not understood.
        """
        found = await self._reads.subscription_object(subscription_id)
        if not self._reads.is_ours(observe(found, ObjectKind.SUBSCRIPTION)):
            raise SubscriptionNotFoundError(subscription_id)
        return found

    async def own_schedule(self, found: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Give the schedule of ours that a subscription, as Stripe gave it, stands under; None where there is none.

        Raises:
            SubscriptionChangePendingError: it stands under a schedule that is not ours.
            StripeCallError: Stripe did not answer with it.
        """
        if not found.get("schedule") or is_over(found):
            return None
        schedule = (await self._stripe.get_schedule(id_of(found["schedule"]))).object
        if not is_ours(schedule, self._reads.deployment):
            raise SubscriptionChangePendingError(metadata={"pending": "schedule"})
        return schedule

    async def check(self, request: ChangeRequest) -> None:
        """Refuse, by what is known and without asking Stripe, what cannot be. Raises the contract's reasons."""
        known = await self.known(request.customer_id, request.subscription_id)
        require_live(known.subscription)
        if request.wanted is not None:
            at_period_end = request.operation is Operation.UPDATE_AT_PERIOD_END
            self.target(request.wanted, known, at_period_end=at_period_end)

    async def draft(self, request: ChangeRequest, found: Mapping[str, Any]) -> Draft:
        """Render a request for the subscription that was read just now. Raises the contract's reasons."""
        known = await self.known(request.customer_id, request.subscription_id)
        if request.operation is not Operation.CANCEL_NOW:  # one that is over is as that wants it
            require_live(known.subscription)
        if request.wanted is not None:
            return await self._update(request, request.wanted, known, found)
        if known.subscription.status is SubscriptionStatus.INCOMPLETE and request.operation is not Operation.CANCEL_NOW:
            raise SubscriptionNotLiveError
        bodies: Mapping[Operation, Callable[[], Body]] = {
            Operation.CANCEL_AT_PERIOD_END: lambda: {"cancel_at_period_end": True},
            Operation.RESUME: lambda: resume_body(found),
        }
        body = bodies[request.operation]() if request.operation in bodies else {}
        return Draft(main_item(known.subscription, known.plans).item_id, body)

    async def recheck(self, change: Change, found: Mapping[str, Any]) -> None:
        """Refuse to send once more what Stripe may have done already and what, done now, would be wrong.

        The same key does nothing where it was done, so this asks only of an update now that the subscription does not
        show: it would credit what was meanwhile not paid, or undo what was meanwhile set up.

        Raises:
            SubscriptionNotFoundError: the subscription is another customer's by now.
            SubscriptionChangePendingError: an update of somebody else's waits for its payment.
            BillingError: those of `require_changeable`.
        """
        known = await self.known(change.customer_id, change.subscription_id)
        if change.operation is Operation.UPDATE_NOW and not shows(found, change):
            require_nothing_pending(found)
            require_changeable(known.subscription, at_period_end=False)

    async def has_another_price(self, request: ChangeRequest, change: Change) -> bool:
        """Say whether an update would now ask for another price than it did. Raises UnavailableError."""
        if request.wanted is None:
            return False
        known = await self.known(request.customer_id, request.subscription_id)
        at_period_end = request.operation is Operation.UPDATE_AT_PERIOD_END
        try:
            price_id = await self.price_id(self.target(request.wanted, known, at_period_end=at_period_end))
        except UnavailableError:
            raise
        except BillingError:
            return False
        return price_id is not None and price_id != _asked_item(change).get("price")

    async def _update(self, request: ChangeRequest, wanted: Wanted, known: Known, found: Mapping[str, Any]) -> Draft:
        at_period_end = request.operation is Operation.UPDATE_AT_PERIOD_END
        require_nothing_pending(found)
        target = self.target(wanted, known, at_period_end=at_period_end)
        price_id = await self.price_id(target)
        if at_period_end:
            return Draft(target.item.item_id, next_phase_body(target, price_id, self._reads.deployment))
        return Draft(target.item.item_id, update_body(target, price_id))

    def target(self, wanted: Wanted, known: Known, *, at_period_end: bool) -> Target:
        """Work out what a request means. Raises as `target_of`."""
        return target_of(wanted, known.subscription, known.plans, self._price_key, at_period_end=at_period_end)

    async def price_id(self, target: Target) -> str | None:
        """Give the Stripe price to change to; None where the item stays on its own.

        Raises:
            PriceNotAvailableError: Stripe does not sell at it.
            StripeUnavailableError: it is not known and Stripe does not answer.
        """
        if target.price is None:
            return None
        price_id = await self._prices.price_id(target.plan, target.price)
        return None if price_id == target.item.price_id else price_id

    def _price_key(self, item: ItemView) -> str | None:
        return self._prices.price_key_of(item.price_id, item.lookup_key)


def require_nothing_pending(found: Mapping[str, Any]) -> None:
    """Refuse a subscription whose last update waits for its payment: Stripe would apply it over ours, or drop it.

    https://docs.stripe.com/billing/subscriptions/pending-updates

    Raises:
        SubscriptionChangePendingError: it does.
    """
    if found.get("pending_update") is not None:
        raise SubscriptionChangePendingError(metadata={"pending": "update"})


def _asked_item(change: Change) -> Mapping[str, Any]:
    """Give the item as an update, rendered, is to make it."""
    body = change.request_body or {}
    asked: Mapping[str, Any] = body["items"][0] if "items" in body else body["item"]
    return asked


def is_over(found: Mapping[str, Any]) -> bool:
    """Say whether a subscription, as Stripe gave it, has ended for good."""
    return SubscriptionStatus(found["status"]) in OVER


def shows(found: Mapping[str, Any], change: Change) -> bool:
    """Say whether a subscription is as an update now was to make it."""
    item, asked = find_item(found, change.item_id), _asked_item(change)
    if item is None:
        return False
    held: str = item["price"]["id"]
    return (held, item["quantity"]) == (asked.get("price", held), asked["quantity"])


def find_item(found: Mapping[str, Any], item_id: str | None) -> Mapping[str, Any] | None:
    """Give one item of a subscription as Stripe gave it, or None.

    Raises:
        MalformedError: it has no items.
    """
    items = (found.get("items") or {}).get("data")
    if not items:
        raise MalformedError("items.data is not a list with entries")
    return next((item for item in items if item["id"] == item_id), None)
