"""Which one-time purchases are settled, so that an event need not load all that a customer ever bought."""

from alembic import op

revision = "0024"
down_revision = "0023"

# Each commits by itself and may be done again; indexes are made and taken away outside a transaction: webhooks would wait for as long as
# it takes. What is there already counts as not settled until it is written again: it is loaded as it always was. A program of the release
# before loads a settled purchase like any other, and leaves it settled; what it makes of it stands in the customer's row.
STATEMENTS = (
    "ALTER TABLE stripe_objects ADD COLUMN IF NOT EXISTS settled boolean NOT NULL DEFAULT false",
    # One that was broken off leaves an index that is no good.
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_objects_loaded_idx",
    """
    CREATE INDEX CONCURRENTLY stripe_objects_loaded_idx ON stripe_objects (stripe_customer_id)
    WHERE stripe_customer_id IS NOT NULL AND NOT past AND NOT settled
    """,
    # The release before finds the same by the index over all objects, and skips what is past.
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_objects_present_idx",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
