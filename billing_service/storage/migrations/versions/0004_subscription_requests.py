"""Requests to change subscriptions, and the portal configurations that were made."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
    CREATE TABLE subscription_requests (
      request_id text COLLATE "C" NOT NULL,
      intent_id uuid NOT NULL,
      fingerprint bytea NOT NULL,
      customer_id text COLLATE "C" NOT NULL,
      stripe_subscription_id text COLLATE "C" NOT NULL,
      operation text NOT NULL,
      state text NOT NULL,
      attempt integer NOT NULL DEFAULT 1,
      subscription_item_id text COLLATE "C",
      request_body jsonb,
      busy_until timestamptz,
      answer jsonb,
      create_time timestamptz NOT NULL,
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT subscription_requests_pkey PRIMARY KEY (request_id),
      CONSTRAINT subscription_requests_intent_id_key UNIQUE (intent_id),
      CONSTRAINT subscription_requests_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
      CONSTRAINT subscription_requests_operation_known CHECK (
        operation IN ('update_now', 'update_at_period_end', 'cancel_now', 'cancel_at_period_end', 'resume')),
      CONSTRAINT subscription_requests_state_known CHECK (state IN ('changing', 'done', 'superseded')),
      CONSTRAINT subscription_requests_done_has_answer CHECK ((state = 'done') = (answer IS NOT NULL)),
      CONSTRAINT subscription_requests_done_was_prepared CHECK (state <> 'done' OR request_body IS NOT NULL),
      CONSTRAINT subscription_requests_body_with_item CHECK ((request_body IS NULL) = (subscription_item_id IS NULL)),
      CONSTRAINT subscription_requests_body_object CHECK (jsonb_typeof(request_body) = 'object'),
      CONSTRAINT subscription_requests_attempt_positive CHECK (attempt >= 1)
    )
    """,
    # One change of a subscription at a time: the database is the last judge.
    """
    CREATE UNIQUE INDEX subscription_requests_one_unfinished_key ON subscription_requests (stripe_subscription_id)
      WHERE state = 'changing'
    """,
    "CREATE INDEX subscription_requests_customer_id_idx ON subscription_requests (customer_id)",
    """
    CREATE TABLE portal_configurations (
      content_hash text COLLATE "C" NOT NULL,
      attempt integer NOT NULL DEFAULT 1,
      configuration_id text COLLATE "C",
      create_time timestamptz NOT NULL DEFAULT now(),
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT portal_configurations_pkey PRIMARY KEY (content_hash),
      CONSTRAINT portal_configurations_attempt_positive CHECK (attempt >= 1)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
