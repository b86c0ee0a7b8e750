"""Locks what arrives and what it hangs on, and finds whose it is, binding what only our metadata names so far."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from billing_service.domain.frozen import frozen
from billing_service.domain.merge import ObjectState
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows import price_memory
from billing_service.flows.arrival import Arrival, Seen
from billing_service.flows.noted_findings import note_contradictions
from billing_service.storage import customers, links, objects, stripe_customers
from billing_service.storage.connection import Answer
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection
from billing_service.storage.links import Related

MAX_CUSTOMER_ID_LENGTH = 200
MAX_LOCK_ROUNDS = 4  # refund -> payment intent -> invoice payment -> invoice is the longest chain


@frozen
class Reach:
    """The first locks of a transaction, on their way: they depend on nothing but what arrived."""

    named: frozenset[str]  # Stripe customers that the arrivals name
    anchors: frozenset[str]
    related: Answer[Related] | None
    owners: Answer[Mapping[str, str | None]] | None
    told: Answer[frozenset[str]] | None  # Stripe customers of the objects of which facts were told


def reach(connection: Connection, seen: Collection[Seen], plans: PlanIndex, told: Iterable[ObjectState] = ()) -> Reach:
    """Send the locks that need no answer: prices, objects, anchors, the Stripe customers that are named. Nothing is awaited.

    `told` are objects of which facts alone arrive.
    """
    named = frozenset(one.stripe_customer_id for one in seen if one.stripe_customer_id is not None)
    anchors = frozenset[str]().union(*(one.anchors for one in seen))
    price_memory.learn(connection, (one.view for one in seen), plans)
    related = owners = customers_told = None
    told_ids = {state.object_id for state in told}
    # All objects: one event of an object may name its Stripe customer and another may not, and the two must meet in a lock.
    objects.lock(connection, told_ids.union(one.object_id for one in seen), anchors)
    if told_ids:
        customers_told = objects.stripe_customers_of(connection, told_ids)
    if anchors:
        related = links.related(connection, anchors)
    if named:
        owners = stripe_customers.lock_known(connection, named)
    return Reach(named, anchors, related, owners, customers_told)


@frozen
class Bound:
    """Locked customers, and their rows on the way; None where there is nobody."""

    customer_ids: Collection[str]
    rows: Answer[Mapping[str, CustomerRow]] | None
    is_new: bool  # whether a Stripe customer was bound just now: what was parked under it counts


def _claims(arrivals: Iterable[Arrival], deployment: str) -> Mapping[str, Sequence[str]]:
    """Give whom our own metadata names for each Stripe customer. Of several the first binds, by the ids of what names them."""
    claims: dict[str, list[str]] = {}
    for arrival in sorted(arrivals, key=lambda a: a.state.object_id):
        claim, stripe_id = arrival.claim, arrival.state.stripe_customer_id
        if stripe_id and claim.deployment == deployment and claim.customer_id and _is_customer_id(claim.customer_id):
            named = claims.setdefault(stripe_id, [])
            if claim.customer_id not in named:
                named.append(claim.customer_id)
    return claims


def _is_customer_id(text: str) -> bool:
    return len(text) <= MAX_CUSTOMER_ID_LENGTH and text.isprintable()


async def bind(connection: Connection, reached: Reach, arrivals: Iterable[Arrival], deployment: str) -> Bound:
    """Lock and give the customers that Stripe customers are bound to, binding those that only our metadata names so far."""
    claims = _claims(arrivals, deployment)
    linked = await _lock_related(connection, reached)
    if reached.told is not None:
        linked |= await reached.told
    found = dict(await reached.owners) if reached.owners is not None else {}
    others = (linked | reached.named) - found.keys()
    if others:
        # New ones, and those of an object that another one hangs on; as with anchors, what crosses here is retried.
        found |= await stripe_customers.lock(connection, others)
    fresh = {
        stripe_id: claims[stripe_id][0] for stripe_id, owner in found.items() if owner is None and stripe_id in claims
    }
    bound = {stripe_id: owner for stripe_id, owner in found.items() if owner is not None} | fresh
    note_contradictions(connection, bound, claims)
    customer_ids = set(bound.values())
    if not customer_ids:
        return Bound(customer_ids, None, is_new=False)
    rows = customers.lock(connection, customer_ids, new=set(fresh.values()))  # a binding refers to its customer's row
    if fresh:
        stripe_customers.bind(connection, fresh)
    return Bound(customer_ids, rows, is_new=bool(fresh))


async def _lock_related(connection: Connection, reached: Reach) -> frozenset[str]:
    """Give the Stripe customers at the other ends of what ties these objects to others, with all of that locked.

    What was locked may reveal more to lock; that may cross another transaction's order, which the database then settles
    by a deadlock that is retried. Without the locks a refund and the session it belongs to could pass each other unseen.
    """
    if reached.related is None:
        return frozenset()
    anchors, found = reached.anchors, await reached.related
    for _ in range(MAX_LOCK_ROUNDS):
        if found.anchors <= anchors:
            break
        objects.lock(connection, (), found.anchors - anchors)
        anchors |= found.anchors
        found = await links.related(connection, anchors)
    return found.stripe_customer_ids
