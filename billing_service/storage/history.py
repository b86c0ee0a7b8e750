"""What each customer's entitlements were before and after each change, and what the change is put down to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import sqlalchemy as sa

from billing_service.domain.entitlement import Entitlements
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection


class CauseKind(StrEnum):
    """What makes entitlements change."""

    EVENT = "event"
    READ = "read"  # our own verified read of Stripe
    GRANT = "grant"
    TIME = "time"
    BINDING = "binding"  # a Stripe customer was bound, and what was parked under it counts


@dataclass(frozen=True)
class Cause:
    """What a change is put down to, with the id of the event, the object that was read, or the binding; of several, the latest."""

    kind: CauseKind
    cause_id: str | None


@dataclass(frozen=True)
class Change:
    """A customer's row as it is to be, and its entitlements before and after."""

    row: CustomerRow
    gives: bool  # whether what is given changed, and not only the facts
    cause: Cause
    before: Entitlements
    after: Entitlements


_APPEND = sa.text("""
    INSERT INTO entitlement_changes (customer_id, revision, cause, cause_id, catalog_version, before, after)
    SELECT customer_id, revision, cause, cause_id, :catalog_version, before::jsonb, after::jsonb
    FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:causes AS text[]), CAST(:cause_ids AS text[]),
                CAST(:befores AS text[]), CAST(:afters AS text[]))
         AS n (customer_id, revision, cause, cause_id, before, after)
    ORDER BY customer_id COLLATE "C"
""")


async def append(connection: Connection, changes: Sequence[Change], catalog_version: str) -> None:
    """Keep changes of locked customers; a revision is written once."""
    values = {
        "causes": [change.cause.kind.value for change in changes],
        "cause_ids": [change.cause.cause_id for change in changes],
        "catalog_version": catalog_version,
        "ids": [change.row.customer_id for change in changes],
        "revisions": [change.row.revision for change in changes],
        "befores": [_state(change.before) for change in changes],
        "afters": [_state(change.after) for change in changes],
    }
    await connection.execute(_APPEND, values)


def _state(entitlements: Entitlements) -> str:
    return msgspec.json.encode(
        {
            "plan_keys": entitlements.plan_keys,
            "values": {one.feature_key: one.value for one in entitlements.entitlements},
            "sources": entitlements.sources,
        }
    ).decode()


_CHANGED = sa.text("""
    SELECT DISTINCT customer_id FROM entitlement_changes
    WHERE cause = 'event' AND cause_id = ANY(CAST(:ids AS text[]))
""")
_CHANGED_BY_READ = sa.text("""
    SELECT DISTINCT customer_id FROM entitlement_changes JOIN reconcile_runs ON run_id = :run_id
    WHERE cause = 'read' AND cause_id = :object_id AND change_time >= create_time
""")


async def changed_by(connection: Connection, event_ids: Collection[str]) -> set[str]:
    """Give the customers whose entitlements these events changed."""
    return {row.customer_id for row in await connection.execute(_CHANGED, {"ids": sorted(event_ids)})}


async def changed_by_read(connection: Connection, object_id: str, run_id: int) -> set[str]:
    """Give the customers whose entitlements a read of this object changed since a run of the reconciliation began."""
    values = {"object_id": object_id, "run_id": run_id}
    return {row.customer_id for row in await connection.execute(_CHANGED_BY_READ, values)}
