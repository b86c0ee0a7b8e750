"""Reconciliation by scope, findings that end, and events that were ignored until their type became handled."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    """
    ALTER TABLE reconcile_runs
      ADD COLUMN scope text NOT NULL DEFAULT 'events',
      ADD COLUMN position text NOT NULL DEFAULT '',
      ADD COLUMN denied bigint NOT NULL DEFAULT 0,
      ADD CONSTRAINT reconcile_runs_scope_known CHECK (scope IN ('events', 'subscriptions', 'purchases', 'customer'))
    """,
    "ALTER TABLE findings ADD COLUMN close_time timestamptz",
    "ALTER TABLE quarantined_events DROP CONSTRAINT quarantined_events_reason_known",
    """
    ALTER TABLE quarantined_events ADD CONSTRAINT quarantined_events_reason_known
      CHECK (reason IN ('malformed', 'unwritable', 'ignored'))
    """,
)
# Outside the transaction: webhooks would wait for as long as it takes. One that was broken off leaves an index that is no good.
IGNORED_INDEX = (
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_events_ignored_type_idx",
    "CREATE INDEX CONCURRENTLY stripe_events_ignored_type_idx ON stripe_events (type) WHERE outcome = 'ignored'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    with op.get_context().autocommit_block():
        for statement in IGNORED_INDEX:
            op.execute(statement)
