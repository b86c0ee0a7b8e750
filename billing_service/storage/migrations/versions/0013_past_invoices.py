"""Which invoices are past, so that an event need not load all that a customer ever had."""

from alembic import op

revision = "0013"
down_revision = "0012"

# Each commits by itself and may be done again; the index is made outside a transaction: webhooks would wait for as long as it takes.
# What is there already counts as not past until it is written again: it is loaded as it always was, and so is what a program of the
# release before adds. What that one writes over an invoice that is past leaves it past: from paid and void nothing leads on.
STATEMENTS = (
    """
    ALTER TABLE stripe_objects
      ADD COLUMN IF NOT EXISTS past boolean NOT NULL DEFAULT false,
      ADD COLUMN IF NOT EXISTS past_subscription_id text COLLATE "C",
      ADD COLUMN IF NOT EXISTS past_paid boolean,
      ADD COLUMN IF NOT EXISTS past_created bigint
    """,
    # One that was broken off leaves an index that is no good.
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_objects_present_idx",
    """
    CREATE INDEX CONCURRENTLY stripe_objects_present_idx ON stripe_objects (stripe_customer_id)
    WHERE stripe_customer_id IS NOT NULL AND NOT past
    """,
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_objects_past_idx",
    """
    CREATE INDEX CONCURRENTLY stripe_objects_past_idx
    ON stripe_objects (past_subscription_id, past_paid, past_created, object_id) WHERE past_subscription_id IS NOT NULL
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
