"""What finds the reasons of requests about nobody in particular, which an erasing empties."""

from alembic import op

revision = "0012"
down_revision = "0011"

# Outside the transaction. One that was broken off leaves an index that is no good.
INDEX = (
    "DROP INDEX CONCURRENTLY IF EXISTS operator_requests_of_nobody_idx",
    """
    CREATE INDEX CONCURRENTLY operator_requests_of_nobody_idx ON operator_requests (request_id)
    WHERE customer_id IS NULL AND reason <> ''
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in INDEX:
            op.execute(statement)
