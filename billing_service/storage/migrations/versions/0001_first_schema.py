"""The first schema: customers, Stripe's objects and events, prices, checkout intents.

Names are ARCHITECTURE's words. Times of ours are timestamptz; times of Stripe's are bigint seconds since the epoch, as
Stripe says them.
"""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    # Receipts of events and fences of reads are drawn from one sequence, so that they can be compared.
    "CREATE SEQUENCE stripe_fence AS bigint",
    """
    CREATE TABLE customers (
      customer_id text COLLATE "C" NOT NULL,
      revision bigint NOT NULL DEFAULT 0,
      facts jsonb NOT NULL DEFAULT '{}',
      stripe_customer_id text COLLATE "C",
      stripe_customer_key uuid,
      stripe_customer_request jsonb,
      create_time timestamptz NOT NULL DEFAULT now(),
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT customers_pkey PRIMARY KEY (customer_id),
      CONSTRAINT customers_customer_id_length CHECK (length(customer_id) BETWEEN 1 AND 200),
      CONSTRAINT customers_revision_not_negative CHECK (revision >= 0),
      CONSTRAINT customers_facts_object CHECK (jsonb_typeof(facts) = 'object'),
      CONSTRAINT customers_stripe_request_has_key
        CHECK ((stripe_customer_key IS NULL) = (stripe_customer_request IS NULL))
    )
    """,
    """
    CREATE TABLE stripe_customers (
      stripe_customer_id text COLLATE "C" NOT NULL,
      customer_id text COLLATE "C",
      create_time timestamptz NOT NULL DEFAULT now(),
      bind_time timestamptz,
      CONSTRAINT stripe_customers_pkey PRIMARY KEY (stripe_customer_id),
      CONSTRAINT stripe_customers_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
      CONSTRAINT stripe_customers_bound_has_time CHECK ((customer_id IS NULL) = (bind_time IS NULL))
    )
    """,
    "CREATE INDEX stripe_customers_customer_id_idx ON stripe_customers (customer_id) WHERE customer_id IS NOT NULL",
    """
    CREATE TABLE stripe_events (
      event_id text COLLATE "C" NOT NULL,
      receipt bigint NOT NULL DEFAULT nextval('stripe_fence'),
      type text NOT NULL,
      created bigint NOT NULL,
      api_version text,
      object_id text,
      livemode boolean NOT NULL,
      outcome text NOT NULL,
      payload bytea NOT NULL,
      receive_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT stripe_events_pkey PRIMARY KEY (event_id),
      CONSTRAINT stripe_events_outcome_known CHECK (outcome IN ('applied', 'ignored', 'not_ours'))
    )
    """,
    """
    CREATE TABLE stripe_objects (
      object_id text COLLATE "C" NOT NULL,
      kind text NOT NULL,
      stripe_customer_id text COLLATE "C",
      payload_terminal boolean,
      payload_created bigint,
      payload_rank smallint,
      payload_event_id text COLLATE "C",
      payload_receipt bigint,
      payload_view jsonb,
      read_terminal boolean,
      read_fence bigint,
      read_request_time bigint,
      read_time bigint,
      read_view jsonb,
      facts jsonb NOT NULL DEFAULT '{}',
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT stripe_objects_pkey PRIMARY KEY (object_id),
      CONSTRAINT stripe_objects_payload_whole CHECK (
        num_nulls(payload_terminal, payload_created, payload_rank, payload_event_id, payload_receipt, payload_view)
        IN (0, 6)),
      CONSTRAINT stripe_objects_read_whole CHECK (
        num_nulls(read_terminal, read_fence, read_request_time, read_time, read_view) IN (0, 5)),
      CONSTRAINT stripe_objects_something_known CHECK (payload_view IS NOT NULL OR read_view IS NOT NULL)
    )
    """,
    """
    CREATE INDEX stripe_objects_stripe_customer_id_idx ON stripe_objects (stripe_customer_id)
      WHERE stripe_customer_id IS NOT NULL
    """,
    """
    CREATE TABLE quarantined_events (
      event_key text COLLATE "C" NOT NULL,
      payload bytea NOT NULL,
      reason text NOT NULL,
      detail text NOT NULL,
      attempts bigint NOT NULL DEFAULT 1,
      create_time timestamptz NOT NULL DEFAULT now(),
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT quarantined_events_pkey PRIMARY KEY (event_key),
      CONSTRAINT quarantined_events_reason_known CHECK (reason IN ('malformed', 'unwritable'))
    )
    """,
    """
    CREATE TABLE prices (
      price_id text COLLATE "C" NOT NULL,
      plan_key text NOT NULL,
      price_key text NOT NULL,
      lookup_key text NOT NULL,
      active boolean NOT NULL,
      current boolean NOT NULL,
      resolve_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT prices_pkey PRIMARY KEY (price_id)
    )
    """,
    "CREATE UNIQUE INDEX prices_current_key ON prices (plan_key, price_key) WHERE current",
    """
    CREATE TABLE checkout_intents (
      intent_id uuid NOT NULL,
      customer_id text COLLATE "C" NOT NULL,
      plan_key text NOT NULL,
      price_key text NOT NULL,
      plan_group text NOT NULL,
      quantity bigint NOT NULL,
      fingerprint bytea NOT NULL,
      state text NOT NULL,
      attempt integer NOT NULL DEFAULT 1,
      request_body jsonb NOT NULL,
      stripe_customer_id text COLLATE "C",
      checkout_session_id text COLLATE "C",
      url text,
      expire_time timestamptz NOT NULL,
      create_time timestamptz NOT NULL,
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT checkout_intents_pkey PRIMARY KEY (intent_id),
      CONSTRAINT checkout_intents_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
      CONSTRAINT checkout_intents_checkout_session_id_key UNIQUE (checkout_session_id),
      CONSTRAINT checkout_intents_state_known CHECK (
        state IN ('creating', 'open', 'expiring', 'completed', 'expired', 'superseded', 'refused', 'abandoned')),
      CONSTRAINT checkout_intents_open_has_session CHECK (
        state NOT IN ('open', 'expiring') OR checkout_session_id IS NOT NULL),
      CONSTRAINT checkout_intents_quantity_positive CHECK (quantity >= 1),
      CONSTRAINT checkout_intents_attempt_positive CHECK (attempt >= 1)
    )
    """,
    # One attempt to buy at a time, per customer and plan group: the database is the last judge.
    """
    CREATE UNIQUE INDEX checkout_intents_one_unfinished_key ON checkout_intents (customer_id, plan_group)
      WHERE state IN ('creating', 'open')
    """,
    """
    CREATE INDEX checkout_intents_expiring_idx ON checkout_intents (customer_id, plan_group) WHERE state = 'expiring'
    """,
    """
    CREATE TABLE checkout_requests (
      request_id text COLLATE "C" NOT NULL,
      fingerprint bytea NOT NULL,
      intent_id uuid NOT NULL,
      reused boolean NOT NULL,
      create_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT checkout_requests_pkey PRIMARY KEY (request_id),
      CONSTRAINT checkout_requests_intent_id_fkey FOREIGN KEY (intent_id) REFERENCES checkout_intents (intent_id)
    )
    """,
    "CREATE INDEX checkout_requests_intent_id_idx ON checkout_requests (intent_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
