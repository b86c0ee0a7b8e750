"""What time alone has changed for a locked customer: taken by the drain, or by whoever writes that customer's row before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.frozen import replace
from billing_service.domain.plan_index import PlanIndex
from billing_service.flows.retell import retold
from billing_service.storage import history
from billing_service.storage.customers import NEVER_LOOKED_AT, PRICE_RESOLVED, CustomerRow
from billing_service.storage.database import Connection
from billing_service.storage.history import Cause, CauseKind, Change

INSTANT = timedelta(microseconds=1)


def overdue(row: CustomerRow, plans: PlanIndex, now: datetime, told: Entitlements | None = None) -> Change | None:
    """Give the change that fell due and is not logged yet; None where there is none. `told` is what `told_last` has of the customer.

    Whoever sets anew when time changes something next takes this first: the drain would never hear of it. The log would have a
    gap then, and watchers would keep what has ended.
    """
    if row.next_change_time is None or row.next_change_time > now:
        return None
    change = change_by_time(row, row.next_change_time, plans, now, told)
    return change if change.gives else None


async def told_last(
    connection: Connection, rows: Collection[CustomerRow], plans: PlanIndex
) -> Mapping[str, Entitlements]:
    """Give what watchers of this catalog were told last of those who are looked at again; no statement where nobody is.

    What another catalog's process logged is told as ours has it; where a price has resolved since, that would hide it.
    """
    again = [row for row in rows if row.next_change_time is not None and row.next_change_time <= PRICE_RESOLVED]
    if not again:
        return {}
    since = {row.customer_id: row.next_change_time for row in again}
    last = await history.last(connection, again)
    return {
        one.customer_id: one.entitlements
        for one in await retold(connection, last, plans, None)
        if one.catalog_version == plans.catalog.version
        or (one.folded is not None and since[one.customer_id] == NEVER_LOOKED_AT)
    }


def change_by_time(
    row: CustomerRow, due: datetime, plans: PlanIndex, now: datetime, told: Entitlements | None = None
) -> Change:
    """Compare what a customer had until it fell due with what there is now. `told` is what was logged last, where it is known."""
    after = _at(row, plans, now)
    before = _before(row, due, plans, now, told)
    gives = _shown(before) != _shown(after)
    if gives:
        row = replace(row, revision=row.revision + 1)
        after = replace(after, revision=row.revision)
    # Which price stands for which plan is the service's own reading of Stripe.
    kind = CauseKind.READ if due == PRICE_RESOLVED else CauseKind.TIME
    return Change(row, gives, Cause(kind, None), before, after)


def _before(
    row: CustomerRow, due: datetime, plans: PlanIndex, now: datetime, told: Entitlements | None
) -> Entitlements:
    """Give what the customer had. Of one who is looked at again what was told last, or at least what a price's own key says."""
    if due > PRICE_RESOLVED:
        return _at(row, plans, due - INSTANT)
    if told is not None:
        return told
    return _at(row, plans if due == NEVER_LOOKED_AT else PlanIndex(plans.catalog), now)


def _at(row: CustomerRow, plans: PlanIndex, now: datetime) -> Entitlements:
    given = accesses(row.facts, plans.of_price, plans.of_key)
    return fold(row.customer_id, row.revision, given, plans.catalog, now)


def _shown(one: Entitlements) -> Sequence[object]:
    """Give what a customer can tell apart: values, plans, and the states of the sources."""
    values = [(entitlement.feature_key, entitlement.value) for entitlement in one.entitlements]
    return [values, one.plan_keys, [(source.stripe_id, source.grant_id, source.state) for source in one.sources]]
