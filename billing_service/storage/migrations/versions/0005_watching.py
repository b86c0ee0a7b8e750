"""Watching: changes of entitlements in the order of their commits, and when time alone changes what a customer has."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# Each of these commits by itself and may be done again, so that nobody waits while rows are gone through: the log may be long.
# The default is for programs of the release before, which know of no position. What is there already is numbered below theirs.
BEFORE = (
    "CREATE SEQUENCE IF NOT EXISTS entitlement_position",
    "CREATE SEQUENCE IF NOT EXISTS entitlement_position_before",
    """
    DO $$ BEGIN
      IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'entitlement_changes'::regclass AND attname = 'position') THEN
        ALTER TABLE entitlement_changes ADD COLUMN position bigint;
        IF EXISTS (SELECT FROM entitlement_changes) THEN
          PERFORM setval('entitlement_position', 1000000000000);
        END IF;
        ALTER TABLE entitlement_changes ALTER COLUMN position SET DEFAULT nextval('entitlement_position');
      END IF;
    END $$
    """,
    # One that was broken off leaves an index that is no good.
    "DROP INDEX CONCURRENTLY IF EXISTS entitlement_changes_no_position_idx",
    """
    CREATE INDEX CONCURRENTLY entitlement_changes_no_position_idx ON entitlement_changes (change_time, customer_id, revision)
      WHERE position IS NULL
    """,
)
NUMBER = sa.text("""
    UPDATE entitlement_changes AS c SET position = n.position
    FROM (SELECT customer_id, revision, nextval('entitlement_position_before') AS position FROM
            (SELECT customer_id, revision FROM entitlement_changes WHERE position IS NULL
             ORDER BY change_time, customer_id, revision LIMIT 5000) AS o) AS n
    WHERE (c.customer_id, c.revision) = (n.customer_id, n.revision)
""")
AFTER = (
    "DROP INDEX CONCURRENTLY IF EXISTS entitlement_changes_no_position_idx",
    "DROP SEQUENCE IF EXISTS entitlement_position_before",
    "DROP INDEX CONCURRENTLY IF EXISTS entitlement_changes_position_key",
    "CREATE UNIQUE INDEX CONCURRENTLY entitlement_changes_position_key ON entitlement_changes (position)",
    # Where it stands, SET NOT NULL reads no row.
    """
    ALTER TABLE entitlement_changes
      DROP CONSTRAINT IF EXISTS entitlement_changes_position_there,
      ADD CONSTRAINT entitlement_changes_position_there CHECK (position IS NOT NULL) NOT VALID
    """,
    "ALTER TABLE entitlement_changes VALIDATE CONSTRAINT entitlement_changes_position_there",
    # Everybody who is there already is looked at once: with a default that is one value, no row is rewritten.
    "ALTER TABLE customers ADD COLUMN IF NOT EXISTS next_change_time timestamptz DEFAULT 'epoch'",
    "ALTER TABLE customers ALTER COLUMN next_change_time DROP DEFAULT",
    "DROP INDEX CONCURRENTLY IF EXISTS customers_next_change_time_idx",
    """
    CREATE INDEX CONCURRENTLY customers_next_change_time_idx ON customers (next_change_time)
      WHERE next_change_time IS NOT NULL
    """,
)
STATEMENTS = (
    "ALTER TABLE entitlement_changes ALTER COLUMN position SET NOT NULL",
    """
    ALTER TABLE entitlement_changes
      DROP CONSTRAINT entitlement_changes_position_there,
      ADD CONSTRAINT entitlement_changes_position_key UNIQUE USING INDEX entitlement_changes_position_key
    """,
    """
    CREATE TABLE derivations (
      name text NOT NULL,
      version text NOT NULL,
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT derivations_pkey PRIMARY KEY (name)
    )
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in BEFORE:
            op.execute(statement)
        while op.get_bind().execute(NUMBER).rowcount:
            pass
        for statement in AFTER:
            op.execute(statement)
    for statement in STATEMENTS:
        op.execute(statement)
