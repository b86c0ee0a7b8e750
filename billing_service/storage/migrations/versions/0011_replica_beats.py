"""What processes write so that they can tell by a replica's own answer how far behind it is."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE replica_beats (
          writer uuid NOT NULL,
          beat bigint NOT NULL,
          update_time timestamptz NOT NULL DEFAULT now(),
          CONSTRAINT replica_beats_pkey PRIMARY KEY (writer)
        ) WITH (fillfactor = 50)
    """)
