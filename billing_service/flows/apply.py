"""Merges observations and refolds the customers that they touch, inside one transaction.

Events and our own reads of Stripe both come through here: one merge for everything. The order of locks is the same
everywhere: event ids, prices, objects and anchors, Stripe customers, customers, checkout intents, findings, re-reads, log; each sorted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from uuid import UUID

import structlog

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.facts import CustomerFacts, disputed_invoices, gather
from billing_service.domain.frozen import frozen, replace
from billing_service.domain.merge import ObjectState, join
from billing_service.domain.ownership import owners_of
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import (
    ObjectKind,
    SessionStatus,
    SessionView,
    SubscriptionView,
)
from billing_service.flows.arrival import Arrival
from billing_service.flows.change_by_time import overdue, told_last
from billing_service.flows.noted_findings import note_bought_twice, note_finalization
from billing_service.flows.price_memory import items_of, recall
from billing_service.flows.reach import Reach, bind, reach
from billing_service.flows.wanted_reads import wanted_reads
from billing_service.storage import (
    checkouts,
    customer_facts,
    customers,
    history,
    links,
    objects,
    rereads,
    stripe_customers,
    told_facts,
)
from billing_service.storage.checkouts import IntentState
from billing_service.storage.connection import Answer
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection
from billing_service.storage.history import Cause, CauseKind, Change
from billing_service.storage.rereads import Ask

log = structlog.get_logger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@frozen
class Context:
    """What the fold of a transaction goes by."""

    plans: PlanIndex
    now: datetime


async def apply(
    connection: Connection,
    arrivals: Sequence[Arrival],
    context: Context,
    deployment: str,
    also_read: Sequence[Ask] = (),
    reached: Reach | None = None,
    told: Mapping[str, ObjectState] = MappingProxyType({}),
) -> set[str]:
    """Merge arrivals and refold their customers; return the ids of objects whose customer is not known yet.

    The metadata of `deployment` binds. Asks for the re-reads that are needed, and for those of `also_read`. `told` are the facts
    that thin events, by their ids, told: they count at once where their object has been seen, and wait for it otherwise. Three round trips: the locks of `reach`, which may have
    been sent with something else before; everything else that is locked and loaded; what is written, with the commit. One more
    where a Stripe customer is new, or an object hangs on one of another.
    """
    reached = reached or reach(connection, arrivals, context.plans, told.values())
    bound = await bind(connection, reached, arrivals, deployment)
    ids = {arrival.state.object_id for arrival in arrivals}
    new_links = {arrival.state.object_id: arrival.anchors for arrival in arrivals if arrival.anchors}
    if new_links:
        links.save(connection, new_links)
    if told:
        told_facts.keep(connection, told)
    locked = ids.union(state.object_id for state in told.values())
    # All of it where what was parked counts now, or where a Stripe customer may be gone.
    whole = bound.is_new or any(arrival.state.kind is ObjectKind.CUSTOMER for arrival in arrivals)
    loaded = _load(connection, _kinds(arrivals, told.values()), bound.customer_ids, bound.rows, whole=whole)
    before, waiting = _joined(await loaded.objects)
    waiting = {object_id: waiting[object_id] for object_id in waiting.keys() & locked}
    known = _merge(connection, arrivals, before, waiting)
    owners, given = await _refold(connection, known.values(), loaded, context, _causes(arrivals, told))
    moved = [known[object_id] for object_id in sorted(locked) if object_id in known]
    _settle_intents(connection, moved)
    await note_finalization(connection, moved, owners)
    loose_ids = ids - owners.keys()
    asks = [*wanted_reads(arrivals, before, known, loose_ids), *also_read]
    if asks:
        rereads.ask(connection, asks)
    _log(connection, given, context)
    return loose_ids


@frozen
class _Loaded:
    """What a fold begins with, on its way: objects, customers and bindings. Locked before, so never stale."""

    customer_ids: Collection[str]
    whole: bool  # False: without what `is_settled_purchase` names, which the customers' rows have
    objects: Answer[list[ObjectState]]
    rows: Answer[Mapping[str, CustomerRow]]
    bindings: Answer[Mapping[str, str]]


def _kinds(arrivals: Sequence[Arrival], told_states: Iterable[ObjectState]) -> Mapping[str, ObjectKind]:
    """Give what arrives, and the invoices that subscriptions say are their latest: they may be past, and known for long."""
    views = [arrival.view for arrival in arrivals]
    told = {v.latest_invoice_id for v in views if isinstance(v, SubscriptionView) and v.latest_invoice_id is not None}
    known = {state.object_id: state.kind for state in told_states}
    return dict.fromkeys(told, ObjectKind.INVOICE) | known | {a.object_id: a.state.kind for a in arrivals}


def _load(
    connection: Connection,
    kinds: Mapping[str, ObjectKind],
    customer_ids: Collection[str],
    rows: Answer[Mapping[str, CustomerRow]] | None = None,
    *,
    whole: bool,
) -> _Loaded:
    return _Loaded(
        customer_ids,
        whole,
        objects.load(connection, kinds, customer_ids, settled_too=whole),
        rows or customers.load(connection, customer_ids),
        stripe_customers.of_customers(connection, customer_ids),
    )


def _causes(arrivals: Sequence[Arrival], told: Mapping[str, ObjectState]) -> Mapping[str, Cause]:
    """Say what a change is put down to, by the object that made it: the latest event of it, or a read."""
    ordered = sorted(arrivals, key=lambda a: a.state.payload.created if a.state.payload else 0)
    return {state.object_id: Cause(CauseKind.EVENT, event_id) for event_id, state in told.items()} | {
        a.state.object_id: Cause(CauseKind.READ if a.event_id is None else CauseKind.EVENT, a.event_id or a.read_id)
        for a in ordered
    }


async def refold(connection: Connection, customer_ids: Collection[str], context: Context, cause: Cause) -> None:
    """Work out anew what locked customers have, from every object that is theirs."""
    loaded = _load(connection, {}, customer_ids, whole=True)
    known, _ = _joined(await loaded.objects)
    _, given = await _refold(connection, known.values(), loaded, context, dict.fromkeys(known, cause))
    _log(connection, given, context)


def _log(connection: Connection, given: Sequence[Change], context: Context) -> None:
    """Append changes to the log, whose lock is the last: from here on every other writer waits for our commit."""
    if given:
        history.append(connection, given, context.plans.catalog.version, context.now)


def _merge(
    connection: Connection,
    arrivals: Sequence[Arrival],
    known: Mapping[str, ObjectState],
    waiting: Mapping[str, ObjectState],
) -> Mapping[str, ObjectState]:
    """Join what arrived into what is there, send what changed to be saved, and give every object that is seen as it is then.

    `waiting` is what was told of these objects and is not in their rows yet.
    """
    after = dict(known)
    for arrival in arrivals:
        there = after.get(arrival.state.object_id, waiting.get(arrival.state.object_id))
        after[arrival.state.object_id] = arrival.state if there is None else join(there, arrival.state)
    changed = []
    for object_id, state in after.items():
        before = known.get(object_id)
        if (before is not state and before != state) or object_id in waiting:
            changed.append(state)
    if changed:
        disputed = disputed_invoices(after.values())
        ids = {state.object_id for state in changed}
        were = disputed_invoices(known.values())
        # They are kept otherwise, and nothing else is new about them; a release before may have put them away, which a word of the dispute mends.
        others = disputed | were if any(one.kind is ObjectKind.DISPUTE for one in changed) else disputed ^ were
        changed += [after[object_id] for object_id in sorted(others - ids) if object_id in after]
        objects.save(connection, changed, disputed)
        if waiting:
            told_facts.joined(connection, [state.object_id for state in changed if state.object_id in waiting])
        connection.push()  # it is written while we fold
    return after


def _joined(states: Iterable[ObjectState]) -> tuple[dict[str, ObjectState], dict[str, ObjectState]]:
    """Give the objects that are seen, and what was told of any that is not in its row yet. One of which nothing but that is known is missing still."""
    seen: dict[str, ObjectState] = {}
    waiting: dict[str, ObjectState] = {}
    for state in states:
        into = seen if state.is_seen else waiting
        there = into.get(state.object_id)
        into[state.object_id] = state if there is None else join(there, state)
    for object_id in waiting.keys() & seen.keys():
        seen[object_id] = join(seen[object_id], waiting[object_id])
    return seen, waiting


async def _refold(
    connection: Connection,
    known: Iterable[ObjectState],
    loaded: _Loaded,
    context: Context,
    causes: Mapping[str, Cause],
) -> tuple[Mapping[str, str], Sequence[Change]]:
    """Work out the facts of locked customers anew; a change of what they give takes the next revision, and is to be logged.

    Returns whose each object is, for those whose customer is known, and what is to be logged.
    """
    if not loaded.customer_ids:
        return {}, ()
    states = list(known)
    owners = owners_of(states, await loaded.bindings)
    by_customer: dict[str, list[ObjectState]] = {customer_id: [] for customer_id in loaded.customer_ids}
    for state in states:
        owner = owners.get(state.object_id)
        if owner is not None:
            by_customer[owner].append(state)
    rows = await loaded.rows
    # What was given by hand changes only under the customer's lock, and with the row: what the row has is what there is.
    # So it is with a settled purchase of which nothing was loaded.
    ids = None if loaded.whole else {state.object_id for state in states}
    facts = {id_: _facts(own, rows[id_].facts, ids) for id_, own in by_customer.items()}
    items = chain.from_iterable(map(items_of, chain(facts.values(), (row.facts for row in rows.values()))))
    context = replace(context, plans=await recall(connection, items, context.plans))
    moved = [rows[customer_id] for customer_id in by_customer if facts[customer_id] != rows[customer_id].facts]
    told = await told_last(connection, moved, context.plans)
    folded = [
        _folded(row, facts[row.customer_id], by_customer[row.customer_id], context, causes, told.get(row.customer_id))
        for row in moved
    ]
    changes = [own[-1] for own in folded]
    if changes:
        ends = {change.row.customer_id: change.after.next_change_time for change in changes}
        customer_facts.save(connection, [change.row for change in changes], ends, context.now)
        connection.push()
    note_bought_twice(connection, [change.row for change in changes], context.plans)
    return owners, [change for change in chain.from_iterable(folded) if change.gives]


def _facts(own: Sequence[ObjectState], before: CustomerFacts, loaded_ids: Collection[str] | None) -> CustomerFacts:
    kept = [] if loaded_ids is None else [one for one in before.purchases if one.checkout_session_id not in loaded_ids]
    return replace(gather(own, kept), grants=before.grants)


def _folded(
    row: CustomerRow,
    facts: CustomerFacts,
    states: Sequence[ObjectState],
    context: Context,
    causes: Mapping[str, Cause],
    told: Entitlements | None,
) -> Sequence[Change]:
    """Fold one customer; before and after are compared over all time, not only as they stand now. What was overdue comes first."""
    plans = context.plans
    late = overdue(row, plans, context.now, told)
    row = row if late is None else late.row
    before = accesses(row.facts, plans.of_price, plans.of_key)
    after = accesses(facts, plans.of_price, plans.of_key)
    gives = before != after
    revision = row.revision + gives
    ids = {state.object_id for state in states}
    own = [cause for object_id, cause in causes.items() if object_id in ids]
    folded = fold(row.customer_id, revision, after, plans.catalog, context.now)
    change = Change(
        row=CustomerRow(row.customer_id, revision, facts),
        gives=gives,
        cause=own[-1] if own else Cause(CauseKind.BINDING, None),
        before=fold(row.customer_id, row.revision, before, plans.catalog, context.now) if gives else folded,
        after=folded,
    )
    return (change,) if late is None else (late, change)


def _settle_intents(connection: Connection, states: Iterable[ObjectState]) -> None:
    """Tell our intents what Stripe said of their sessions."""
    ends = {SessionStatus.COMPLETE: IntentState.COMPLETED, SessionStatus.EXPIRED: IntentState.EXPIRED}
    settled = [
        (state.object_id, _intent_id(state.view), ends[state.view.status])
        for state in states
        if isinstance(state.view, SessionView) and state.view.status in ends
    ]
    if settled:
        checkouts.settle(connection, settled)


def _intent_id(view: SessionView) -> UUID | None:
    return UUID(view.intent_id) if view.intent_id and _UUID.fullmatch(view.intent_id) else None
