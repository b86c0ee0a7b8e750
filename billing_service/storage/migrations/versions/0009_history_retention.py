"""How far the history was trimmed, and what finds the facts that were kept for long enough."""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = (
    """
    CREATE TABLE IF NOT EXISTS history_horizon (
      is_only boolean NOT NULL DEFAULT true,
      changes_position bigint NOT NULL DEFAULT 0,
      facts_time timestamptz,
      CONSTRAINT history_horizon_pkey PRIMARY KEY (is_only),
      CONSTRAINT history_horizon_one_row CHECK (is_only),
      CONSTRAINT history_horizon_position_not_negative CHECK (changes_position >= 0)
    )
    """,
    "INSERT INTO history_horizon DEFAULT VALUES ON CONFLICT DO NOTHING",
)
# Outside the transaction: webhooks would wait for as long as it takes. One that was broken off leaves an index that is no good.
INDEXES = (
    "DROP INDEX CONCURRENTLY IF EXISTS customer_facts_change_time_idx",
    "CREATE INDEX CONCURRENTLY customer_facts_change_time_idx ON customer_facts (change_time)",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in (*STATEMENTS, *INDEXES):
            op.execute(statement)
