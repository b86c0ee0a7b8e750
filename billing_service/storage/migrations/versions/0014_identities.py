"""Who asked, by what they showed: beside the name that they gave themselves."""

from alembic import op

revision = "0014"
down_revision = "0013"

# Each commits by itself and may be done again. Empty: a program of the release before wrote it, or nobody had to show anything.
STATEMENTS = (
    "ALTER TABLE operator_requests ADD COLUMN IF NOT EXISTS identity text",
    "ALTER TABLE grants ADD COLUMN IF NOT EXISTS identity text, ADD COLUMN IF NOT EXISTS revoke_identity text",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
