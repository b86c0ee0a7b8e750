"""Gives and revokes by hand: the grant, the customer's facts, the revision and the log in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from billing_service.domain.access import accesses
from billing_service.domain.catalog import Catalog
from billing_service.domain.entitlement import fold
from billing_service.domain.errors import (
    FeatureNotFoundError,
    FieldViolation,
    GrantNotFoundError,
    InvalidFieldsError,
    PlanNotFoundError,
    TooManyGrantsError,
)
from billing_service.domain.frozen import replace
from billing_service.domain.grant import fits
from billing_service.domain.operator import Grant, GrantWish, Operation, Order, StandingGrant
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.change_by_time import overdue, told_last
from billing_service.flows.operator_request import Asked, once
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.prices import Prices
from billing_service.storage import customer_facts, customers, grants, history
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database
from billing_service.storage.history import Cause, CauseKind, Change

MOST_AT_ONCE = 100  # grants of one customer that count: they are loaded with every read of them


@dataclass(frozen=True)
class Changed:
    """Which grant was made or revoked, and the customer's revision then: what a repetition is answered with."""

    grant_id: str
    revision: int


class ChangeGrants:
    """Makes grants and ends them."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now

    async def create(self, order: Order, wish: GrantWish) -> tuple[StandingGrant, int]:
        """Give what is wished for; give the grant, and the customer's revision with it.

        Raises:
            PlanNotFoundError: the catalog has no such plan.
            FeatureNotFoundError: it has no such feature.
            InvalidFieldsError: the value is of another type, or the times do not hold.
            TooManyGrantsError: the customer has as many as one may have.
            RequestIdReusedError: the request id was used for something else.
        """
        plans = await self._prices.plans()
        asked = Asked(order, Operation.CREATE_GRANT, wish, wish.customer_id)

        async def change(connection: Connection) -> tuple[StandingGrant, int]:
            changed = await once(connection, asked, Changed, lambda: self._create(connection, order, wish, plans))
            return self._standing(await _found(connection, changed.grant_id), plans), changed.revision

        return await self._database.run(change)

    async def revoke(self, order: Order, grant_id: str) -> tuple[StandingGrant, int]:
        """End a grant now; give it, and the customer's revision without it. One that was revoked before stays as it was.

        Raises:
            GrantNotFoundError: there is none of this id.
            RequestIdReusedError: the request id was used for something else.
        """
        plans = await self._prices.plans()

        async def change(connection: Connection) -> tuple[StandingGrant, int]:
            # Whose it is never changes, so that it may be looked up before anything is locked.
            customer_id = (await _found(connection, grant_id)).customer_id
            asked = Asked(order, Operation.REVOKE_GRANT, grant_id, customer_id)
            changed = await once(
                connection, asked, Changed, lambda: self._revoke(connection, order, customer_id, grant_id, plans)
            )
            return self._standing(await _found(connection, grant_id), plans), changed.revision

        return await self._database.run(change)

    def _standing(self, grant: Grant, plans: PlanIndex) -> StandingGrant:
        return StandingGrant(grant, grant.state(plans, self._now()))

    async def _create(self, connection: Connection, order: Order, wish: GrantWish, plans: PlanIndex) -> Changed:
        now = self._now()
        _check(wish, plans.catalog, now)
        await customers.lock(connection, [wish.customer_id])
        if len(await grants.counting(connection, wish.customer_id, now)) >= MOST_AT_ONCE:
            raise TooManyGrantsError
        facts = wish.facts(f"grant_{uuid4().hex}", max(wish.start or now, now))
        given = Grant(wish.customer_id, facts, order.actor, order.reason, now, identity=order.identity)
        grants.insert(connection, given)
        return await self._refolded(connection, wish.customer_id, facts.grant_id, plans, now)

    async def _revoke(
        self, connection: Connection, order: Order, customer_id: str, grant_id: str, plans: PlanIndex
    ) -> Changed:
        now = self._now()
        await customers.lock(connection, [customer_id])
        grants.revoke(connection, grant_id, order, now)
        return await self._refolded(connection, customer_id, grant_id, plans, now)

    async def _refolded(
        self, connection: Connection, customer_id: str, grant_id: str, plans: PlanIndex, now: datetime
    ) -> Changed:
        """Write the grants that count into a locked customer's facts; a change of what they give takes the next revision."""
        row = (await customers.load(connection, [customer_id]))[customer_id]
        counting = await grants.counting(connection, customer_id, now)
        facts = replace(row.facts, grants=tuple(grant.facts for grant in counting))
        plans = await recall(connection, items_of(facts), plans)
        told = await told_last(connection, [row], plans)
        late = overdue(row, plans, now, told.get(customer_id)) if facts != row.facts else None
        row = row if late is None else late.row
        before, after = (accesses(one, plans.of_price, plans.of_key) for one in (row.facts, facts))
        revision = row.revision + (before != after)
        new = CustomerRow(customer_id, revision, facts)
        change = Change(
            row=new,
            gives=before != after,
            cause=Cause(CauseKind.GRANT, grant_id),
            before=fold(customer_id, row.revision, before, plans.catalog, now),
            after=fold(customer_id, revision, after, plans.catalog, now),
        )
        if facts != row.facts:
            customer_facts.save(connection, [new], {customer_id: change.after.next_change_time}, now)
        given = [one for one in (late, change) if one is not None and one.gives]
        if given:
            history.append(connection, given, plans.catalog.version, now)
        return Changed(grant_id, revision)


async def _found(connection: Connection, grant_id: str) -> Grant:
    grant = await grants.find(connection, grant_id)
    if grant is None:
        raise GrantNotFoundError(grant_id)
    return grant


def _check(wish: GrantWish, catalog: Catalog, now: datetime) -> None:
    """Refuse what the catalog does not have, and a window that has no time in it."""
    if wish.end is not None and wish.end <= max(wish.start or now, now):
        raise InvalidFieldsError([FieldViolation("expire_time", "must be after now and after start_time")])
    if wish.plan_key is not None:
        _check_plan(wish, catalog)
        return
    key = wish.feature_key or ""
    if key not in catalog.features:
        raise FeatureNotFoundError("feature.feature_key", key)
    value = wish.facts("", now).feature_value
    if not fits(catalog.features[key], value):
        kind = catalog.features[key].type.value
        raise InvalidFieldsError([FieldViolation("feature.value", f"must be of the feature's type, {kind}")])
    if not value and not wish.override:
        raise InvalidFieldsError([FieldViolation("feature.value", "must give something; only an override takes away")])


def _check_plan(wish: GrantWish, catalog: Catalog) -> None:
    plan = catalog.plans.get(wish.plan_key or "")
    if plan is None:
        raise PlanNotFoundError(wish.plan_key or "")
    if wish.quantity > 1 and not plan.quantity_allowed:
        violation = FieldViolation("plan.quantity", f"must be 1: the plan {plan.plan_key!r} is given one at a time")
        raise InvalidFieldsError([violation])
