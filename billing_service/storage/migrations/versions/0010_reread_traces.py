"""In which trace a re-read was asked for."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # Without a default and empty for what waits already: no row is rewritten.
    op.execute("ALTER TABLE rereads ADD COLUMN IF NOT EXISTS traceparent text")
