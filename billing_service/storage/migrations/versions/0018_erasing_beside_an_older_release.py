"""An erasing is done once a release that reads compressed bodies has walked through all of them."""

from alembic import op

revision = "0018"
down_revision = "0017"

# The release before finds nobody in a body that is compressed, and may walk on, and end, what this one has begun while both run. So
# the place of a walk that counts stands by itself. When this is run nothing is compressed yet: what is done is done.
STATEMENTS = (
    "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walk_time timestamptz NOT NULL DEFAULT 'epoch'",
    "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walk_event_id text COLLATE \"C\" NOT NULL DEFAULT ''",
    "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walked boolean NOT NULL DEFAULT false",
    "CREATE INDEX IF NOT EXISTS erasures_unfinished_idx ON erasures (customer_id) WHERE NOT (done_time IS NOT NULL AND walked)",
    "UPDATE erasures SET walked = true WHERE done_time IS NOT NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
