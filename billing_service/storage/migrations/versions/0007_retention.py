"""What finds the events whose bodies, and later whose ids, were kept for long enough."""

from alembic import op

revision = "0007"
down_revision = "0006"

# Outside the transaction: webhooks would wait for as long as it takes. One that was broken off leaves an index that is no good.
# Every event stands in one of the two, and in neither once it is dealt with.
INDEXES = (
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_events_with_payload_idx",
    """
    CREATE INDEX CONCURRENTLY stripe_events_with_payload_idx ON stripe_events (receive_time)
    WHERE octet_length(payload) > 0
    """,
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_events_without_payload_idx",
    """
    CREATE INDEX CONCURRENTLY stripe_events_without_payload_idx ON stripe_events (receive_time)
    WHERE octet_length(payload) = 0
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in INDEXES:
            op.execute(statement)
