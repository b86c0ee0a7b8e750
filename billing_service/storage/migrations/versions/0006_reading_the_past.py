"""What reads of the past stand on: each content of the catalog and since when it was used, and every change of facts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# Each commits by itself and may be done again, so that nobody waits while rows are gone through.
STATEMENTS = (
    """
    CREATE TABLE IF NOT EXISTS catalog_versions (
      version text COLLATE "C" NOT NULL,
      content jsonb NOT NULL,
      create_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT catalog_versions_pkey PRIMARY KEY (version),
      CONSTRAINT catalog_versions_content_object CHECK (jsonb_typeof(content) = 'object')
    )
    """,
    # The same content may come back: a roll-back is an activation too.
    """
    CREATE TABLE IF NOT EXISTS catalog_activations (
      activation_id bigint GENERATED ALWAYS AS IDENTITY,
      version text COLLATE "C" NOT NULL,
      active_since timestamptz NOT NULL,
      CONSTRAINT catalog_activations_pkey PRIMARY KEY (activation_id),
      CONSTRAINT catalog_activations_version_fkey FOREIGN KEY (version) REFERENCES catalog_versions (version)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS customer_facts (
      customer_id text COLLATE "C" NOT NULL,
      fact_id bigint GENERATED ALWAYS AS IDENTITY,
      change_time timestamptz NOT NULL,
      revision bigint NOT NULL,
      facts jsonb NOT NULL,
      CONSTRAINT customer_facts_pkey PRIMARY KEY (customer_id, fact_id),
      CONSTRAINT customer_facts_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
      CONSTRAINT customer_facts_revision_not_negative CHECK (revision >= 0),
      CONSTRAINT customer_facts_object CHECK (jsonb_typeof(facts) = 'object')
    )
    """,
)
# What is known of those who are there already; what they had before their last change was not kept. In the order of ids, on from the
# last one that has some.
KNOWN = sa.text("""
    INSERT INTO customer_facts (customer_id, change_time, revision, facts)
    SELECT customer_id, update_time, revision, facts FROM customers
    WHERE facts <> '{}' AND customer_id > coalesce((SELECT max(customer_id) FROM customer_facts), '')
    ORDER BY customer_id LIMIT 5000
""")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in STATEMENTS:
            op.execute(statement)
        while op.get_bind().execute(KNOWN).rowcount:
            pass
