"""An erasing is done once a release that reads compressed bodies has walked through all of them."""

from alembic import op

revision = "0018"
down_revision = "0017"

# The release before finds nobody in a body that is compressed, and may walk on, and end, what this one has begun while both run. So
# the place of a walk that counts stands by itself, and how far it has come: done is what was walked until the last time it was asked for.
# When this is run nothing is compressed yet, so that what is done is done. What the release before needs stays for one release more.
STATEMENTS = (
    "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walk_time timestamptz NOT NULL DEFAULT 'epoch'",
    "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walk_event_id text COLLATE \"C\" NOT NULL DEFAULT ''",
    "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walked_until_time timestamptz NOT NULL DEFAULT 'epoch'",
    "CREATE INDEX IF NOT EXISTS erasures_unfinished_idx ON erasures (customer_id) WHERE NOT (done_time IS NOT NULL AND walked_until_time >= until_time)",
    "UPDATE erasures SET walked_until_time = until_time WHERE done_time IS NOT NULL",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
