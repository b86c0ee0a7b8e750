"""What lists the record of what operators did, the last first."""

from alembic import op

revision = "0015"
down_revision = "0014"

# Outside the transaction. One that was broken off leaves an index that is no good.
INDEX = (
    "DROP INDEX CONCURRENTLY IF EXISTS operator_requests_create_time_idx",
    "CREATE INDEX CONCURRENTLY operator_requests_create_time_idx ON operator_requests (create_time, request_id)",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in INDEX:
            op.execute(statement)
