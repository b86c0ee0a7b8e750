"""Merges observations and refolds the customers that they touch, inside one transaction.

Events and our own reads of Stripe both come through here: one merge for everything. The order of locks is the same
everywhere: event ids, Stripe customers, customers, objects, checkout intents; each sorted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from billing_service.domain.access import accesses
from billing_service.domain.facts import gather
from billing_service.domain.merge import ObjectState, join
from billing_service.domain.observation import Claim, SessionStatus, SessionView
from billing_service.domain.plan_index import PlanIndex
from billing_service.storage import checkouts, customers, objects, stripe_customers
from billing_service.storage.checkouts import IntentState
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection

log = structlog.get_logger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MAX_CUSTOMER_ID_LENGTH = 200


@dataclass(frozen=True)
class Arrival:
    """One observation as it is to be merged: the state that it would make by itself, and whose our metadata says it is."""

    state: ObjectState
    claim: Claim


async def apply(connection: Connection, arrivals: Sequence[Arrival], plans: PlanIndex, deployment: str) -> set[str]:
    """Merge arrivals and refold their customers; return the ids of objects whose customer is not known yet."""
    stripe_ids = {a.state.stripe_customer_id for a in arrivals if a.state.stripe_customer_id is not None}
    bound = await _bind(connection, stripe_ids, _claims(arrivals, deployment))
    loose = {a.state.object_id for a in arrivals if a.state.stripe_customer_id is None}
    if loose:
        await objects.lock_loose(connection, loose)
    touched = set(bound.values())
    known = await _merge(connection, [arrival.state for arrival in arrivals], touched)
    await _refold(connection, known.values(), touched, plans)
    ids = {arrival.state.object_id for arrival in arrivals}
    await _settle_intents(connection, [known[object_id] for object_id in sorted(ids)])
    return {object_id for object_id in ids if (known[object_id].stripe_customer_id or "") not in bound}


async def refold(connection: Connection, customer_ids: Collection[str], plans: PlanIndex) -> None:
    """Work out anew what locked customers have, from every object that is theirs."""
    known = await objects.load(connection, (), customer_ids)
    await _refold(connection, known, customer_ids, plans)


def _claims(arrivals: Iterable[Arrival], deployment: str) -> Mapping[str, str]:
    """Give whom our own metadata names for each Stripe customer; two names for one are settled by order, and logged."""
    claims: dict[str, str] = {}
    for arrival in sorted(arrivals, key=lambda a: a.state.object_id):
        claim, stripe_id = arrival.claim, arrival.state.stripe_customer_id
        if stripe_id and claim.deployment == deployment and claim.customer_id and _is_customer_id(claim.customer_id):
            claims.setdefault(stripe_id, claim.customer_id)
    return claims


def _is_customer_id(text: str) -> bool:
    return len(text) <= MAX_CUSTOMER_ID_LENGTH and text.isprintable()


async def _bind(connection: Connection, stripe_ids: Collection[str], claims: Mapping[str, str]) -> Mapping[str, str]:
    """Lock Stripe customers and the customers they are bound to, binding those that only our metadata names so far."""
    if not stripe_ids:
        return {}
    await stripe_customers.lock(connection, stripe_ids)
    found = await stripe_customers.load(connection, stripe_ids)
    fresh = {
        stripe_id: claims[stripe_id] for stripe_id, owner in found.items() if owner is None and stripe_id in claims
    }
    bound = {stripe_id: owner for stripe_id, owner in found.items() if owner is not None} | fresh
    for stripe_id, owner in found.items():
        if owner is not None and claims.get(stripe_id, owner) != owner:
            log.warning("binding_contradicted", stripe_customer_id=stripe_id)
    if bound:
        await customers.lock(connection, set(bound.values()))
    if fresh:
        await stripe_customers.bind(connection, fresh)
    return bound


async def _merge(
    connection: Connection, arrived: Sequence[ObjectState], touched: Collection[str]
) -> Mapping[str, ObjectState]:
    """Join what arrived into what is there, save what changed, and give every object that bears on the customers."""
    before = await objects.load(connection, {state.object_id for state in arrived}, touched)
    known = {state.object_id: state for state in before}
    after = dict(known)
    for state in arrived:
        there = after.get(state.object_id)
        after[state.object_id] = state if there is None else join(there, state)
    changed = [state for object_id, state in after.items() if known.get(object_id) != state]
    if changed:
        await objects.save(connection, changed)
    return after


async def _refold(
    connection: Connection, known: Iterable[ObjectState], touched: Collection[str], plans: PlanIndex
) -> None:
    """Work out the facts of locked customers anew; a change of what they give takes the next revision."""
    if not touched:
        return
    owners = await stripe_customers.of_customers(connection, touched)
    by_customer: dict[str, list[ObjectState]] = {customer_id: [] for customer_id in touched}
    for state in known:
        owner = owners.get(state.stripe_customer_id or "")
        if owner is not None:
            by_customer[owner].append(state)
    rows = await customers.load(connection, touched)
    folded = [_folded(rows[customer_id], states, plans) for customer_id, states in by_customer.items()]
    changed = [row for row in folded if row != rows[row.customer_id]]
    if changed:
        await customers.save(connection, changed)


def _folded(row: CustomerRow, states: Iterable[ObjectState], plans: PlanIndex) -> CustomerRow:
    facts = gather(states)
    before = accesses(row.facts, plans.of_price, plans.of_key)
    after = accesses(facts, plans.of_price, plans.of_key)
    return CustomerRow(row.customer_id, row.revision + (before != after), facts)


async def _settle_intents(connection: Connection, states: Iterable[ObjectState]) -> None:
    """Tell our intents what Stripe said of their sessions."""
    ends = {SessionStatus.COMPLETE: IntentState.COMPLETED, SessionStatus.EXPIRED: IntentState.EXPIRED}
    settled = [
        (state.object_id, _intent_id(state.view), ends[state.view.status])
        for state in states
        if isinstance(state.view, SessionView) and state.view.status in ends
    ]
    if settled:
        await checkouts.settle(connection, settled)


def _intent_id(view: SessionView) -> UUID | None:
    return UUID(view.intent_id) if view.intent_id and _UUID.fullmatch(view.intent_id) else None
