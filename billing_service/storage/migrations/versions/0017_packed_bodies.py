"""Bodies of events come compressed: PostgreSQL is not to try it again, and keeps a usual one in its row."""

from alembic import op

revision = "0017"
down_revision = "0016"

# For rows that are written from now on; nothing is rewritten, and what stands as it came is read as before.
STATEMENTS = (
    "ALTER TABLE stripe_events ALTER COLUMN payload SET STORAGE EXTERNAL",
    "ALTER TABLE stripe_events SET (toast_tuple_target = 4080)",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
