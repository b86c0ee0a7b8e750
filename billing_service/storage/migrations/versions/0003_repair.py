"""Reconciliation by scope, findings that end, and events that were ignored until their type became handled."""

from alembic import op

revision = "0003"
down_revision = "0002"

# Each commits by itself, so that nothing waits for as long as rows are gone through, and may be done again where it was broken off.
STATEMENTS = (
    """
    ALTER TABLE reconcile_runs
      ADD COLUMN IF NOT EXISTS scope text NOT NULL DEFAULT 'events',
      ADD COLUMN IF NOT EXISTS position text NOT NULL DEFAULT '',
      ADD COLUMN IF NOT EXISTS denied bigint NOT NULL DEFAULT 0,
      DROP CONSTRAINT IF EXISTS reconcile_runs_scope_known,
      ADD CONSTRAINT reconcile_runs_scope_known
        CHECK (scope IN ('events', 'subscriptions', 'purchases', 'customer')) NOT VALID
    """,
    "ALTER TABLE reconcile_runs VALIDATE CONSTRAINT reconcile_runs_scope_known",
    "ALTER TABLE findings ADD COLUMN IF NOT EXISTS close_time timestamptz",
    """
    ALTER TABLE quarantined_events
      DROP CONSTRAINT IF EXISTS quarantined_events_reason_known,
      ADD CONSTRAINT quarantined_events_reason_known CHECK (reason IN ('malformed', 'unwritable', 'ignored')) NOT VALID
    """,
    "ALTER TABLE quarantined_events VALIDATE CONSTRAINT quarantined_events_reason_known",
    # One that was broken off leaves an index that is no good.
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_events_ignored_type_idx",
    "CREATE INDEX CONCURRENTLY stripe_events_ignored_type_idx ON stripe_events (type) WHERE outcome = 'ignored'",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
