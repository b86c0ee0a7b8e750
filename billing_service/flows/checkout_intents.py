"""Intents to buy as they are committed: what is asked, what Stripe is sent, and whose turn it is.

Phase 1 of a checkout, and the last guard before Stripe makes a page; each is one transaction under the customer's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from billing_service.domain.catalog import Plan, PlanMode, Price
from billing_service.domain.checkout import CheckoutRequest, PlanGroup
from billing_service.domain.checkout_body import SESSION_LIFE, fingerprint, group_in, session_body
from billing_service.domain.errors import (
    AlreadySubscribedError,
    FieldViolation,
    InvalidFieldsError,
    PlanNotForSaleError,
    PlanNotFoundError,
    PriceNotFoundError,
    RequestIdReusedError,
)
from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.domain.observation import is_deleted_customer
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.prices import Prices
from billing_service.storage import checkouts, customers, objects
from billing_service.storage.checkouts import Intent, IntentState, StoredRequest
from billing_service.storage.database import Connection, Database

RESUME_LIMIT = timedelta(hours=23)  # Stripe keeps an idempotency key for at least 24 hours
REUSE_MINIMUM_LIFE = timedelta(minutes=30)  # a page with less is not given to somebody who asks for one now


@dataclass(frozen=True)
class Order:
    """A request whose plan and price the catalog knows."""

    request: CheckoutRequest
    plan: Plan
    price: Price
    group: PlanGroup
    fingerprint: bytes

    @property
    def has_one_trial(self) -> bool:
        """Whether the plan begins with a trial, for who had none yet."""
        return self.plan.policy.trial is not None and self.plan.policy.one_trial_per_customer


class CheckoutIntents:
    """The intents of all customers."""

    def __init__(self, database: Database, prices: Prices, deployment: str, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process; `deployment` goes into the metadata of what is made."""
        self._database = database
        self._prices = prices
        self._deployment = deployment
        self._now = now

    def order(self, request: CheckoutRequest) -> Order:
        """Give a request with the plan and price that the catalog knows for it. Raises what the contract lists."""
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
        return Order(
            request, plan, price, group_in(self._prices.index.catalog, plan), fingerprint(request, price.price_key)
        )

    def is_stale(self, intent: Intent) -> bool:
        """Say whether an intent was left unfinished for so long that Stripe may have forgotten its key."""
        return intent.state is IntentState.ABANDONED or (
            intent.state is IntentState.CREATING and intent.create_time < self._now() - RESUME_LIMIT
        )

    async def begin(self, order: Order, price_id: str) -> StoredRequest:
        """Give the intent that a request resumes, joins or begins, committed.

        Raises:
            RequestIdReusedError: the id was used for something else.
            AlreadySubscribedError: the customer holds a live subscription of the group.
        """
        return await self._database.run(lambda connection: self._begin(connection, order, price_id))

    async def _begin(self, connection: Connection, order: Order, price_id: str) -> StoredRequest:
        """Under the customer's lock: give the intent that this request resumes, joins or begins, committed."""
        request = order.request
        await customers.lock(connection, [request.customer_id])
        stored = await checkouts.find_request(connection, request.request_id)
        if stored is not None and stored.fingerprint != order.fingerprint:
            raise RequestIdReusedError
        if stored is not None and not self.is_stale(stored.intent):
            return stored
        facts = await self._guard(connection, order)
        intent = await self._joined_or_cleared(connection, order)
        reused = intent is not None
        if intent is None:
            trial = await self._may_have_trial(connection, order, facts)
            intent = self._new_intent(order, price_id, trial=trial)
            await checkouts.insert(connection, intent)
        remembered = await checkouts.insert_request(
            connection, request.request_id, order.fingerprint, intent.intent_id, reused=reused
        )
        if not remembered:  # another customer's call was quicker with this id
            raise RequestIdReusedError
        return StoredRequest(order.fingerprint, reused, intent)

    async def _may_have_trial(self, connection: Connection, order: Order, facts: CustomerFacts) -> bool:
        """Say whether the plan begins with a trial; of one per customer, another group's open page has it already."""
        if not order.has_one_trial:
            return order.plan.policy.trial is not None
        customer_id, now = order.request.customer_id, self._now()
        return not (facts.had_trial or await checkouts.offers_trial(connection, customer_id, order.group, now))

    async def _guard(self, connection: Connection, order: Order) -> CustomerFacts:
        """Refuse who holds a live subscription of the group; past_due, paused, unpaid and incomplete ones count.

        Gives what the customer has bought so far.
        """
        group = order.plan.group
        rows = await customers.load(connection, [order.request.customer_id])
        row = rows.get(order.request.customer_id)
        if row is None or group is None:
            return NO_FACTS if row is None else row.facts
        index = await recall(connection, items_of(row.facts), self._prices.index)
        for subscription in row.facts.subscriptions:
            plans = [index.of_price(item.price_id, item.lookup_key) for item in subscription.items]
            held = next((plan for plan in plans if plan and plan.group == group), None)
            if held is not None and subscription.is_live:
                raise AlreadySubscribedError(metadata={"plan_group": group, "plan_key": held.plan_key})
        return row.facts

    async def _joined_or_cleared(self, connection: Connection, order: Order) -> Intent | None:
        """Give the unfinished intent of the group where it is for the same thing; give up every other, and None.

        There are several where the catalog regrouped its plans. An open page beside which another can still be paid is given
        up too: a new one is made once they are expired, and known not to be paid. So is one on which the customer cannot pay.
        """
        found = await checkouts.unfinished(connection, order.request.customer_id, order.group)
        payer = await _payer(connection, order.request.customer_id)
        alone = len(found) == 1 and not await checkouts.expiring(connection, order.request.customer_id, order.group)
        joined: Intent | None = None
        for intent in found:
            payable = intent.state is IntentState.CREATING or (alone and intent.stripe_customer_id == payer)
            if joined is None and payable and self._is_same(intent, order):
                joined = intent
            else:
                await self._give_up(connection, intent)
        return joined

    def _is_same(self, intent: Intent, order: Order) -> bool:
        """Say whether an unfinished intent is for the same thing, and good for long enough."""
        lives = intent.expire_time >= self._now() + REUSE_MINIMUM_LIFE
        return intent.fingerprint == order.fingerprint and lives and not self.is_stale(intent)

    async def _give_up(self, connection: Connection, intent: Intent) -> None:
        given_up = IntentState.ABANDONED if self.is_stale(intent) else IntentState.SUPERSEDED
        after = IntentState.EXPIRING if intent.state is IntentState.OPEN else given_up
        await checkouts.move(connection, intent.intent_id, intent.state, after)

    async def open_page(self, order: Order) -> Intent | None:
        """Give the open page that this request would be given, if there is one."""
        customer_id = order.request.customer_id
        found = await self._database.run(lambda c: checkouts.unfinished(c, customer_id, order.group))
        return next((one for one in found if one.state is IntentState.OPEN and self._is_same(one, order)), None)

    def _new_intent(self, order: Order, price_id: str, *, trial: bool) -> Intent:
        now, intent_id = self._now(), uuid4()
        price_key = order.price.price_key
        return Intent(
            intent_id=intent_id,
            customer_id=order.request.customer_id,
            plan_key=order.plan.plan_key,
            price_key=price_key,
            plan_group=order.group.name,
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

    async def cleared(self, order: Order, intent: Intent, customer: str) -> Intent:
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

    async def next_attempt(self, order: Order, intent: Intent) -> Intent:
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


async def _payer(connection: Connection, customer_id: str) -> str | None:
    """Give the Stripe customer with which a customer buys; None where there is none, or it is known to be deleted."""
    draft = await customers.stripe_customer(connection, customer_id)
    if draft is None or draft.stripe_customer_id is None:
        return None
    known = await objects.find(connection, draft.stripe_customer_id)
    gone = known is not None and is_deleted_customer(known.view)
    return None if gone else draft.stripe_customer_id
