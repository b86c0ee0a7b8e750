"""Room on each page for what is updated in place."""

from alembic import op

revision = "0016"
down_revision = "0015"

# A row whose next version finds room on its own page needs no new entry in any index, unless an indexed column changes, as when a
# renewal moves a customer's next change: in a large table each of those is a page of its own that is read, and written whole to the
# log. For pages that are written from now on; nothing is rewritten.
STATEMENTS = (
    "ALTER TABLE stripe_objects SET (fillfactor = 80)",
    "ALTER TABLE customers SET (fillfactor = 80)",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
