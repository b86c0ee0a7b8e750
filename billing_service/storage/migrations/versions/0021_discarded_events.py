"""Events in quarantine that an operator has decided about: they stay, and wait for nobody any more."""

from alembic import op

revision = "0021"
down_revision = "0020"

# Nothing is rewritten: a column without a default is a note in the catalogue. The release before neither reads nor writes it, so what is
# discarded stays so when that one keeps the same event again; it counts and replays it meanwhile.
COLUMN = "ALTER TABLE quarantined_events ADD COLUMN IF NOT EXISTS discard_time timestamptz"


def upgrade() -> None:
    op.execute(COLUMN)
