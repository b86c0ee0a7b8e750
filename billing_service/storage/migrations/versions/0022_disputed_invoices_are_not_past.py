"""An invoice of which a payment is disputed is not past: it still says something, however long ago it was paid."""

from alembic import op

revision = "0022"
down_revision = "0021"

# Disputes are few, and found by how their ids begin, a range of the primary key each: `dp_`, and `du_` of former years. What hangs on one
# is found by its anchors, as everywhere; an invoice of one that was won is past again when it is written next. The release before may put
# one away once more by writing it, and did not look at it anyway.
DISPUTED = """
    WITH RECURSIVE related (object_id) AS (
        SELECT object_id FROM stripe_objects
        WHERE kind = 'dispute' AND (object_id >= 'dp_' AND object_id < 'dp`' OR object_id >= 'du_' AND object_id < 'du`')
      UNION
        SELECT other.object_id
        FROM related JOIN stripe_links AS own USING (object_id) JOIN stripe_links AS other USING (anchor_id)
    )
    UPDATE stripe_objects AS o
    SET past = false, past_subscription_id = NULL, past_paid = NULL, past_created = NULL
    WHERE o.object_id = ANY (ARRAY(SELECT object_id FROM related)) AND o.kind = 'invoice' AND o.past
"""


def upgrade() -> None:
    op.execute(DISPUTED)
