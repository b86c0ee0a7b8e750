"""An erasing is done once it was walked through until the last time it was asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

# That it was walked through once (`walked`) is no longer true where the release before 0018 was asked again, which leaves it as it is. How far
# it was walked tells that. `walked` stays for one release more; a database that was made between two commits never had it.
COLUMN = "ALTER TABLE erasures ADD COLUMN IF NOT EXISTS walked_until_time timestamptz NOT NULL DEFAULT 'epoch'"
WALKED = "UPDATE erasures SET walked_until_time = until_time WHERE done_time IS NOT NULL AND walked"
INDEX = (
    "DROP INDEX IF EXISTS erasures_unfinished_idx",
    "CREATE INDEX erasures_unfinished_idx ON erasures (customer_id) WHERE NOT (done_time IS NOT NULL AND walked_until_time >= until_time)",
)


def upgrade() -> None:
    op.execute(COLUMN)
    if "walked" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("erasures")}:
        op.execute(WALKED)
    for statement in INDEX:
        op.execute(statement)
