"""How much there is of what an operator should know of: one look at the database for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from billing_service.storage.database import Connection


@dataclass(frozen=True)
class Tally:
    """The numbers at one moment, of all processes together."""

    quarantined: Mapping[str, int]  # by reason, without what was discarded
    findings: Mapping[str, int]  # that are open, by kind
    rereads: int
    reread_overdue_s: float  # of the one that is due for the longest time
    drift: int  # that no event explains; what an event brought that no webhook had, is `missed`
    missed: int  # events that no webhook brought, but reconciliation
    budget_left: float  # requests to Stripe that may leave at once


_TALLY = sa.text("""
    SELECT 'quarantined' AS what, reason AS label, count(*)::float8 AS number FROM quarantined_events
    WHERE discard_time IS NULL GROUP BY reason
    UNION ALL
    SELECT 'findings', kind, count(*)::float8 FROM findings WHERE close_time IS NULL GROUP BY kind
    UNION ALL
    SELECT 'rereads', '', count(*)::float8 FROM rereads
    UNION ALL
    SELECT 'overdue', '', coalesce(greatest(extract(epoch FROM now() - min(due_time)), 0), 0)::float8 FROM rereads
    UNION ALL
    SELECT 'drift', '', coalesce(sum(drift), 0)::float8 FROM reconcile_runs WHERE scope <> 'events'
    UNION ALL
    SELECT 'missed', '', coalesce(sum(repaired), 0)::float8 FROM reconcile_runs WHERE scope = 'events'
    UNION ALL
    SELECT 'budget', '', least(CAST(:burst AS float8),
                               tokens + extract(epoch FROM clock_timestamp() - update_time) * CAST(:rate AS float8))::float8
    FROM stripe_budget
""")


async def take(connection: Connection, *, rate_per_s: float, burst: int) -> Tally:
    """Count. How fast the budget of requests to Stripe comes back, and up to what, is given."""
    rows = (await connection.execute(_TALLY, {"rate": rate_per_s, "burst": burst})).all()
    one = {row.what: float(row.number) for row in rows if row.what not in {"quarantined", "findings"}}
    return Tally(
        quarantined={row.label: int(row.number) for row in rows if row.what == "quarantined"},
        findings={row.label: int(row.number) for row in rows if row.what == "findings"},
        rereads=int(one["rereads"]),
        reread_overdue_s=one["overdue"],
        drift=int(one["drift"]),
        missed=int(one["missed"]),
        budget_left=one["budget"],
    )
