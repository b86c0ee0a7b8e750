"""Watching: changes of entitlements in the order of their commits, and when time alone changes what a customer has."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    "CREATE SEQUENCE entitlement_position",
    # The default is for programs of the release before, which know of no position.
    "ALTER TABLE entitlement_changes ADD COLUMN position bigint",
    """
    UPDATE entitlement_changes AS c SET position = n.position
    FROM (SELECT customer_id, revision, nextval('entitlement_position') AS position FROM
            (SELECT customer_id, revision FROM entitlement_changes ORDER BY change_time, customer_id, revision) AS o) AS n
    WHERE (c.customer_id, c.revision) = (n.customer_id, n.revision)
    """,
    """
    ALTER TABLE entitlement_changes
      ALTER COLUMN position SET DEFAULT nextval('entitlement_position'),
      ALTER COLUMN position SET NOT NULL,
      ADD CONSTRAINT entitlement_changes_position_key UNIQUE (position)
    """,
    # Everybody who is there already is looked at once: with a default that is one value, no row is rewritten.
    "ALTER TABLE customers ADD COLUMN next_change_time timestamptz DEFAULT 'epoch'",
    "ALTER TABLE customers ALTER COLUMN next_change_time DROP DEFAULT",
    """
    CREATE INDEX customers_next_change_time_idx ON customers (next_change_time) WHERE next_change_time IS NOT NULL
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
    for statement in STATEMENTS:
        op.execute(statement)
