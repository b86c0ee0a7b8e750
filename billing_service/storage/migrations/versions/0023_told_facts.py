"""What thin events told by their types alone, of objects that may not have been seen yet."""

from alembic import op

revision = "0023"
down_revision = "0022"

# A table of its own: a row of `stripe_objects` without a register would be one that the release before cannot read.
STATEMENTS = (
    """
    CREATE TABLE IF NOT EXISTS told_facts (
      object_id text COLLATE "C" NOT NULL,
      event_id text COLLATE "C" NOT NULL,
      kind text NOT NULL,
      facts jsonb NOT NULL,
      create_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT told_facts_pkey PRIMARY KEY (object_id, event_id)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
