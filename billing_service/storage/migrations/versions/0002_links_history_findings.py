"""Links between objects, the history of entitlements, findings for people, and the queue of re-reads."""

from alembic import op

revision = "0002"
down_revision = "0001"

# Outside the transaction: purchases would wait for as long as it takes. One that was broken off leaves an index that is no good.
INTENTS_INDEX = (
    "DROP INDEX CONCURRENTLY IF EXISTS checkout_intents_customer_id_idx",
    "CREATE INDEX CONCURRENTLY checkout_intents_customer_id_idx ON checkout_intents (customer_id, plan_group)",
)
STATEMENTS = (
    # An object hangs on an anchor (a payment intent, an invoice, a charge) that others hang on too.
    """
    CREATE TABLE stripe_links (
      object_id text COLLATE "C" NOT NULL,
      anchor_id text COLLATE "C" NOT NULL,
      CONSTRAINT stripe_links_pkey PRIMARY KEY (object_id, anchor_id)
    )
    """,
    "CREATE INDEX stripe_links_anchor_id_idx ON stripe_links (anchor_id)",
    """
    CREATE TABLE entitlement_changes (
      customer_id text COLLATE "C" NOT NULL,
      revision bigint NOT NULL,
      change_time timestamptz NOT NULL DEFAULT now(),
      cause text NOT NULL,
      cause_id text,
      catalog_version text NOT NULL,
      before jsonb NOT NULL,
      after jsonb NOT NULL,
      CONSTRAINT entitlement_changes_pkey PRIMARY KEY (customer_id, revision),
      CONSTRAINT entitlement_changes_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customers (customer_id),
      CONSTRAINT entitlement_changes_cause_known CHECK (cause IN ('event', 'read', 'grant', 'time', 'binding'))
    )
    """,
    "CREATE INDEX entitlement_changes_cause_id_idx ON entitlement_changes (cause_id)",
    """
    CREATE TABLE findings (
      kind text NOT NULL,
      subject text COLLATE "C" NOT NULL,
      customer_id text COLLATE "C",
      detail jsonb NOT NULL,
      create_time timestamptz NOT NULL DEFAULT now(),
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT findings_pkey PRIMARY KEY (kind, subject),
      CONSTRAINT findings_kind_known CHECK (
        kind IN ('bought_twice', 'binding_contradicted', 'drift', 'denied_by_stripe', 'finalization_failed'))
    )
    """,
    # `wanted` is bumped by each request; a refresh deletes only what nobody has asked for again meanwhile.
    """
    CREATE TABLE rereads (
      object_id text COLLATE "C" NOT NULL,
      kind text NOT NULL,
      wanted bigint NOT NULL DEFAULT 1,
      attempts integer NOT NULL DEFAULT 0,
      due_time timestamptz NOT NULL DEFAULT now(),
      lease_time timestamptz,
      request_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT rereads_pkey PRIMARY KEY (object_id),
      CONSTRAINT rereads_wanted_positive CHECK (wanted >= 1)
    )
    """,
    "CREATE INDEX rereads_due_time_idx ON rereads (due_time)",
    # One row: a token bucket of requests to Stripe, shared by all processes.
    """
    CREATE TABLE stripe_budget (
      only_row boolean NOT NULL DEFAULT true,
      tokens double precision NOT NULL,
      update_time timestamptz NOT NULL,
      CONSTRAINT stripe_budget_pkey PRIMARY KEY (only_row),
      CONSTRAINT stripe_budget_only_row CHECK (only_row)
    )
    """,
    "INSERT INTO stripe_budget (tokens, update_time) VALUES (0, now())",
    """
    CREATE TABLE reconcile_runs (
      run_id bigint GENERATED ALWAYS AS IDENTITY,
      since bigint NOT NULL,
      until bigint NOT NULL,
      done_until bigint NOT NULL,
      state text NOT NULL,
      found bigint NOT NULL DEFAULT 0,
      repaired bigint NOT NULL DEFAULT 0,
      failed bigint NOT NULL DEFAULT 0,
      drift bigint NOT NULL DEFAULT 0,
      create_time timestamptz NOT NULL DEFAULT now(),
      update_time timestamptz NOT NULL DEFAULT now(),
      CONSTRAINT reconcile_runs_pkey PRIMARY KEY (run_id),
      CONSTRAINT reconcile_runs_state_known CHECK (state IN ('running', 'stopped', 'failed', 'complete')),
      CONSTRAINT reconcile_runs_within CHECK (since <= done_until AND done_until <= until),
      CONSTRAINT reconcile_runs_complete_is_whole
        CHECK (state <> 'complete' OR (done_until = until AND failed = 0))
    )
    """,
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in INTENTS_INDEX:
            op.execute(statement)
    for statement in STATEMENTS:
        op.execute(statement)
