"""What operators do by hand: grants, requests with who asked and why, and the erasing of personal data."""

from alembic import op

revision = "0008"
down_revision = "0007"

STATEMENTS = (
    """
    CREATE TABLE operator_requests (
      request_id text COLLATE "C" NOT NULL,
      operation text NOT NULL,
      fingerprint bytea NOT NULL,
      actor text NOT NULL,
      reason text NOT NULL,
      customer_id text COLLATE "C",
      answer jsonb NOT NULL,
      create_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT operator_requests_pkey PRIMARY KEY (request_id),
      CONSTRAINT operator_requests_actor_named CHECK (actor <> ''),
      CONSTRAINT operator_requests_answer_object CHECK (jsonb_typeof(answer) = 'object')
    )
    """,
    "CREATE INDEX operator_requests_customer_id_idx ON operator_requests (customer_id) WHERE customer_id IS NOT NULL",
    """
    CREATE TABLE grants (
      grant_id text COLLATE "C" NOT NULL,
      customer_id text COLLATE "C" NOT NULL,
      plan_key text,
      quantity bigint NOT NULL DEFAULT 1,
      feature_key text,
      value jsonb,
      override boolean NOT NULL,
      start_time timestamptz NOT NULL,
      expire_time timestamptz,
      actor text NOT NULL,
      reason text NOT NULL,
      create_time timestamptz NOT NULL,
      revoke_time timestamptz,
      revoke_actor text,
      revoke_reason text,
      CONSTRAINT grants_pkey PRIMARY KEY (grant_id),
      CONSTRAINT grants_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
      CONSTRAINT grants_plan_or_feature CHECK (num_nonnulls(plan_key, feature_key) = 1),
      CONSTRAINT grants_feature_has_value CHECK ((feature_key IS NULL) = (value IS NULL)),
      CONSTRAINT grants_value_scalar CHECK (jsonb_typeof(value) IN ('boolean', 'number', 'string', 'null')),
      CONSTRAINT grants_quantity_positive CHECK (quantity >= 1),
      CONSTRAINT grants_expires_after_start CHECK (expire_time > start_time),
      CONSTRAINT grants_revoked_whole CHECK (num_nulls(revoke_time, revoke_actor, revoke_reason) IN (0, 3))
    )
    """,
    "CREATE INDEX grants_customer_id_idx ON grants (customer_id, create_time, grant_id)",
    "CREATE INDEX grants_create_time_idx ON grants (create_time, grant_id)",
    """
    CREATE TABLE erasures (
      customer_id text COLLATE "C" NOT NULL,
      request_time timestamptz NOT NULL,
      until_time timestamptz NOT NULL,
      looked_time timestamptz NOT NULL,
      looked_event_id text COLLATE "C" NOT NULL DEFAULT '',
      done_time timestamptz,
      event_bodies bigint NOT NULL DEFAULT 0,
      quarantined_events bigint NOT NULL DEFAULT 0,
      checkout_bodies bigint NOT NULL DEFAULT 0,
      stripe_customer_body boolean NOT NULL DEFAULT false,
      reasons bigint NOT NULL DEFAULT 0,
      CONSTRAINT erasures_pkey PRIMARY KEY (customer_id),
      CONSTRAINT erasures_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id)
    )
    """,
    "CREATE INDEX erasures_running_idx ON erasures (customer_id) WHERE done_time IS NULL",
    # The release before writes facts without grants, and would take them away with the next webhook. What is not written stays.
    """
    CREATE FUNCTION customers_keep_grants() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      NEW.facts := NEW.facts || jsonb_build_object('grants', OLD.facts -> 'grants');
      RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER customers_keep_grants BEFORE UPDATE OF facts ON customers FOR EACH ROW
    WHEN (NOT NEW.facts ? 'grants' AND OLD.facts ? 'grants')
    EXECUTE FUNCTION customers_keep_grants()
    """,
)
# Outside the transaction: webhooks would wait for as long as it takes. One that was broken off leaves an index that is no good.
OBJECT_INDEX = (
    "DROP INDEX CONCURRENTLY IF EXISTS stripe_events_object_id_idx",
    "CREATE INDEX CONCURRENTLY stripe_events_object_id_idx ON stripe_events (object_id) WHERE object_id IS NOT NULL",
)


def upgrade() -> None:
    # First what commits by itself and may be done again; then the rest, all of it or nothing.
    with op.get_context().autocommit_block():
        for statement in OBJECT_INDEX:
            op.execute(statement)
    for statement in STATEMENTS:
        op.execute(statement)
