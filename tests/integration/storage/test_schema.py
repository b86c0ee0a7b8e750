"""The database is the last judge: every rule has a name, and each is violated once here."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.storage.database import Connection, Database, ReadOnlyError, connect_sync
from billing_service.storage.schema import LOCK_PAUSE_S, _config, _take_turn, expected_revision, migrate, schema_problem
from sandbox.postgres import EmbeddedPostgres

CUSTOMER = "INSERT INTO customers (customer_id) VALUES ('ann')"
INTENT = """
    INSERT INTO checkout_intents (intent_id, customer_id, plan_key, price_key, plan_group, quantity, fingerprint, state,
                                  attempt, request_body, checkout_session_id, expire_time, create_time)
    VALUES (gen_random_uuid(), {customer}, 'pro', 'monthly', {group}, {quantity}, '', {state}, {attempt}, '{{}}',
            {session}, now(), now())
"""
EVENT = "INSERT INTO stripe_events VALUES ('evt_1', 1, 'x', 1, NULL, NULL, false, {outcome}, '')"
OBJECT = "INSERT INTO stripe_objects (object_id, kind, payload_created, read_fence, payload_view) VALUES ({values})"
QUARANTINED = "INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES ('k', '', {reason}, '')"
RUN = "INSERT INTO reconcile_runs (since, until, done_until, state, failed) VALUES (0, 1, {done}, {state}, {failed})"
CHANGE = "INSERT INTO entitlement_changes VALUES ('ann', 1, now(), {cause}, NULL, '', '{{}}', '{{}}')"
FINDING = "INSERT INTO findings (kind, subject, detail) VALUES ({kind}, 's', '{{}}')"
PRICE = "INSERT INTO prices VALUES ({id}, 'pro', 'monthly', 'pro_monthly', true, true)"
SUBSCRIPTION_REQUEST = """
    INSERT INTO subscription_requests (request_id, intent_id, fingerprint, customer_id, stripe_subscription_id,
        subscription_item_id, operation, state, attempt, request_body, answer, create_time)
    VALUES ({request}, {intent}, '', 'ann', 'sub_1', {item}, {operation}, {state}, {attempt}, {body}, {answer}, now())
"""
CATALOG = "INSERT INTO catalog_versions (version, content) VALUES ('v', {content})"
FACTS = (
    "INSERT INTO customer_facts (customer_id, change_time, revision, facts) VALUES ('ann', now(), {revision}, {facts})"
)
GRANT = """
    INSERT INTO grants (grant_id, customer_id, plan_key, quantity, feature_key, value, override, start_time, expire_time, actor,
                        reason, create_time, revoke_time)
    VALUES ('grant_1', {customer}, {plan}, {quantity}, {feature}, {value}, false, now(), {expire}, 'eve', '', now(), {revoke})
"""
OPERATOR_REQUEST = """
    INSERT INTO operator_requests (request_id, operation, fingerprint, actor, reason, answer)
    VALUES ('r', 'x', '', {actor}, '', {answer})
"""
ERASURE = (
    "INSERT INTO erasures (customer_id, request_time, until_time, looked_time) VALUES ('ann', now(), now(), now())"
)
BEAT = "INSERT INTO replica_beats (writer, beat) VALUES ('00000000-0000-0000-0000-000000000000', 1)"
PORTAL = "INSERT INTO portal_configurations (content_hash, attempt) VALUES ('h', {attempt})"


def subscription_request(**over: str) -> str:
    given = {
        "request": "'r'", "intent": "gen_random_uuid()", "operation": "'resume'", "state": "'superseded'",
        "attempt": "1", "body": "'{}'", "item": "'si_1'", "answer": "NULL",
    }  # fmt: skip
    return SUBSCRIPTION_REQUEST.format(**(given | over))


def grant(**over: str) -> str:
    given = {
        "customer": "'ann'", "plan": "'pro'", "quantity": "1", "feature": "NULL", "value": "NULL", "expire": "NULL",
        "revoke": "NULL",
    }  # fmt: skip
    return GRANT.format(**(given | over))


def operator_request(actor: str = "'eve'", answer: str = "'{}'") -> str:
    return OPERATOR_REQUEST.format(actor=actor, answer=answer)


def intent(**over: str) -> str:
    given = {
        "customer": "'ann'", "group": "'base'", "quantity": "1", "state": "'creating'", "attempt": "1",
        "session": "NULL",
    }  # fmt: skip
    return INTENT.format(**(given | over))


VIOLATIONS = {
    "customers_pkey": [CUSTOMER, CUSTOMER],
    "customers_customer_id_length": ["INSERT INTO customers (customer_id) VALUES (repeat('x', 201))"],
    "customers_revision_not_negative": ["INSERT INTO customers (customer_id, revision) VALUES ('ann', -1)"],
    "customers_facts_object": ["INSERT INTO customers (customer_id, facts) VALUES ('ann', '[]')"],
    "customers_stripe_request_has_key": [
        "INSERT INTO customers (customer_id, stripe_customer_key) VALUES ('ann', gen_random_uuid())"
    ],
    "stripe_customers_pkey": ["INSERT INTO stripe_customers (stripe_customer_id) VALUES ('cus_1'), ('cus_1')"],
    "stripe_customers_customer_id_fkey": ["INSERT INTO stripe_customers VALUES ('cus_1', 'nobody', now(), now())"],
    "stripe_customers_bound_has_time": [CUSTOMER, "INSERT INTO stripe_customers VALUES ('cus_1', 'ann', now(), NULL)"],
    "stripe_events_pkey": [EVENT.format(outcome="'applied'"), EVENT.format(outcome="'applied'")],
    "stripe_events_outcome_known": [EVENT.format(outcome="'lost'")],
    "stripe_objects_pkey": [
        ("INSERT INTO stripe_objects (object_id, kind, read_terminal, read_fence, read_request_time, read_time, read_view)"
        " SELECT 'sub_1', 'subscription', false, 1, 1, 1, '{}' FROM generate_series(1, 2)")
    ],
    "stripe_objects_payload_whole": [OBJECT.format(values="'sub_1', 'subscription', 1, NULL, NULL")],
    "stripe_objects_read_whole": [OBJECT.format(values="'sub_1', 'subscription', NULL, 1, NULL")],
    "stripe_objects_something_known": [OBJECT.format(values="'sub_1', 'subscription', NULL, NULL, NULL")],
    "quarantined_events_pkey": [QUARANTINED.format(reason="'malformed'"), QUARANTINED.format(reason="'malformed'")],
    "quarantined_events_reason_known": [QUARANTINED.format(reason="'whim'")],
    "prices_pkey": [PRICE.format(id="'price_1'"), PRICE.format(id="'price_1'")],
    "prices_current_key": [PRICE.format(id="'price_1'"), PRICE.format(id="'price_2'")],
    "checkout_intents_pkey": [
        CUSTOMER, intent(), "INSERT INTO checkout_intents SELECT * FROM checkout_intents",
    ],
    "checkout_intents_customer_id_fkey": [intent(customer="'nobody'")],
    "checkout_intents_checkout_session_id_key": [
        CUSTOMER, intent(session="'cs_1'", state="'expired'"), intent(session="'cs_1'", state="'expired'"),
    ],
    "checkout_intents_state_known": [CUSTOMER, intent(state="'lost'")],
    "checkout_intents_open_has_session": [CUSTOMER, intent(state="'open'")],
    "checkout_intents_quantity_positive": [CUSTOMER, intent(quantity="0")],
    "checkout_intents_attempt_positive": [CUSTOMER, intent(attempt="0")],
    "checkout_intents_one_unfinished_key": [CUSTOMER, intent(), intent(state="'open'", session="'cs_1'")],
    "checkout_requests_pkey": [
        CUSTOMER, intent(),
        *["INSERT INTO checkout_requests SELECT 'r', '', intent_id, false FROM checkout_intents"] * 2,
    ],
    "stripe_links_pkey": ["INSERT INTO stripe_links VALUES ('re_1', 'pi_1'), ('re_1', 'pi_1')"],
    "entitlement_changes_pkey": [CUSTOMER, CHANGE.format(cause="'event'"), CHANGE.format(cause="'event'")],
    "entitlement_changes_customer_id_fkey": [CHANGE.format(cause="'event'")],
    "entitlement_changes_cause_known": [CUSTOMER, CHANGE.format(cause="'whim'")],
    "entitlement_changes_position_key": [
        CUSTOMER, CHANGE.format(cause="'event'"),
        """
        INSERT INTO entitlement_changes
        SELECT customer_id, 2, change_time, cause, cause_id, catalog_version, before, after, position
        FROM entitlement_changes
        """,
    ],
    "told_facts_pkey": ["INSERT INTO told_facts VALUES ('in_1', 'evt_1', 'invoice', '{}'), ('in_1', 'evt_1', 'invoice', '{}')"],
    "derivations_pkey": ["INSERT INTO derivations (name, version) VALUES ('x', '1'), ('x', '2')"],
    "findings_pkey": [FINDING.format(kind="'drift'"), FINDING.format(kind="'drift'")],
    "findings_kind_known": [FINDING.format(kind="'gossip'")],
    "rereads_pkey": ["INSERT INTO rereads (object_id, kind) VALUES ('sub_1', 'x'), ('sub_1', 'x')"],
    "stripe_budget_pkey": ["INSERT INTO stripe_budget (tokens, update_time) VALUES (0, now())"],
    "stripe_budget_only_row": ["INSERT INTO stripe_budget VALUES (false, 0, now())"],
    "reconcile_runs_pkey": [
        "INSERT INTO reconcile_runs (run_id, since, until, done_until, state)"  # noqa: ISC004 - one statement
        " OVERRIDING SYSTEM VALUE SELECT 1, 0, 1, 0, 'running' FROM generate_series(1, 2)"
    ],
    "reconcile_runs_state_known": [RUN.format(done=0, state="'lost'", failed=0)],
    "reconcile_runs_scope_known": [RUN.format(done=0, state="'running'", failed=0), "UPDATE reconcile_runs SET scope = 'moon'"],
    "reconcile_runs_within": [RUN.format(done=9, state="'running'", failed=0)],
    "reconcile_runs_complete_is_whole": [RUN.format(done=1, state="'complete'", failed=1)],
    "grants_pkey": [CUSTOMER, grant(), grant()],
    "grants_customer_id_fkey": [grant()],
    "grants_plan_or_feature": [CUSTOMER, grant(feature="'seats'", value="'1'")],
    "grants_feature_has_value": [CUSTOMER, grant(value="'1'")],
    "grants_value_scalar": [CUSTOMER, grant(plan="NULL", feature="'seats'", value="'[]'")],
    "grants_quantity_positive": [CUSTOMER, grant(quantity="0")],
    "grants_expires_after_start": [CUSTOMER, grant(expire="now()")],
    "grants_revoked_whole": [CUSTOMER, grant(revoke="now()")],
    "operator_requests_pkey": [operator_request(), operator_request()],
    "operator_requests_actor_named": [operator_request(actor="''")],
    "operator_requests_answer_object": [operator_request(answer="'[]'")],
    "erasures_pkey": [CUSTOMER, ERASURE, ERASURE],
    "erasures_customer_id_fkey": [ERASURE],
    "subscription_requests_pkey": [CUSTOMER, subscription_request(), subscription_request()],
    "subscription_requests_intent_id_key": [
        CUSTOMER,
        *(subscription_request(request=f"'{number}'", intent="'00000000-0000-0000-0000-000000000000'") for number in "12"),
    ],
    "subscription_requests_customer_id_fkey": [subscription_request()],
    "subscription_requests_operation_known": [CUSTOMER, subscription_request(operation="'forget'")],
    "subscription_requests_state_known": [CUSTOMER, subscription_request(state="'lost'")],
    "subscription_requests_done_has_answer": [CUSTOMER, subscription_request(state="'done'")],
    "subscription_requests_done_was_prepared": [
        CUSTOMER, subscription_request(state="'done'", answer="'{}'", body="NULL", item="NULL"),
    ],
    "subscription_requests_body_with_item": [CUSTOMER, subscription_request(item="NULL")],
    "subscription_requests_body_object": [CUSTOMER, subscription_request(body="'[]'")],
    "subscription_requests_attempt_positive": [CUSTOMER, subscription_request(attempt="0")],
    "subscription_requests_one_unfinished_key": [
        CUSTOMER, *(subscription_request(request=f"'{number}'", state="'changing'") for number in "12"),
    ],
    "replica_beats_pkey": [BEAT, BEAT],
    "portal_configurations_pkey": [PORTAL.format(attempt="1"), PORTAL.format(attempt="1")],
    "portal_configurations_attempt_positive": [PORTAL.format(attempt="0")],
    "catalog_versions_pkey": [CATALOG.format(content="'{}'"), CATALOG.format(content="'{}'")],
    "catalog_versions_content_object": [CATALOG.format(content="'[]'")],
    "catalog_activations_pkey": [
        CATALOG.format(content="'{}'"),
        "INSERT INTO catalog_activations OVERRIDING SYSTEM VALUE SELECT 1, 'v', now() FROM generate_series(1, 2)",
    ],
    "catalog_activations_version_fkey": [
        "INSERT INTO catalog_activations (version, active_since) VALUES ('never', now())"
    ],
    "customer_facts_pkey": [
        CUSTOMER, "INSERT INTO customer_facts OVERRIDING SYSTEM VALUE SELECT 'ann', 1, now(), 0, '{}' FROM generate_series(1, 2)",
    ],
    "customer_facts_customer_id_fkey": [FACTS.format(revision=0, facts="'{}'")],
    "customer_facts_revision_not_negative": [CUSTOMER, FACTS.format(revision=-1, facts="'{}'")],
    "history_horizon_pkey": ["INSERT INTO history_horizon DEFAULT VALUES"],
    "history_horizon_one_row": ["INSERT INTO history_horizon (is_only) VALUES (false)"],
    "history_horizon_position_not_negative": ["UPDATE history_horizon SET changes_position = -1"],
    "customer_facts_object": [CUSTOMER, FACTS.format(revision=0, facts="'[]'")],
    "rereads_wanted_positive": ["INSERT INTO rereads (object_id, kind, wanted) VALUES ('sub_1', 'x', 0)"],
    "checkout_requests_intent_id_fkey": [
        "INSERT INTO checkout_requests VALUES ('r', '', gen_random_uuid(), false, now())"
    ],
}  # fmt: skip


@pytest.mark.parametrize(("constraint", "statements"), VIOLATIONS.items(), ids=VIOLATIONS)
def test_the_database_refuses_what_breaks_a_rule(database_url: str, constraint: str, statements: list[str]) -> None:
    with psycopg.connect(database_url) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        with pytest.raises(psycopg.IntegrityError) as raised:
            connection.execute(statements[-1])
        assert raised.value.diag.constraint_name == constraint
        connection.rollback()


def test_every_rule_of_the_schema_is_violated_above(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        named = connection.execute("""
            SELECT conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
            WHERE t.relnamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f', 'c')
              AND t.relname <> 'alembic_version'
            UNION
            SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
            WHERE indisunique AND i.relnamespace = 'public'::regnamespace AND i.relname NOT LIKE 'alembic%'
        """).fetchall()
    assert {row[0] for row in named} == set(VIOLATIONS)


async def test_a_database_without_the_schema_is_told_what_to_run(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert "billing-service migrate" in (await schema_problem(database) or "")
    await database.close()


async def test_migrating_twice_is_migrating_once(empty_database_url: str) -> None:
    assert migrate(empty_database_url) == expected_revision()
    assert migrate(empty_database_url) == expected_revision()
    database = Database(empty_database_url)
    assert await schema_problem(database) is None
    await database.close()


def migrate_to(url: str, revision: str) -> None:
    """Bring a database to an older release's schema."""
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_sync(url))
    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()


def test_a_migration_gives_way_to_a_long_transaction_and_comes_again(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it cannot have its lock, those who come after it can work; when the lock is free, it ends well."""
    migrate_to(empty_database_url, "0004")
    paused: list[float] = []
    with psycopg.connect(empty_database_url) as holder, psycopg.connect(empty_database_url, autocommit=True) as other:
        holder.execute("SELECT FROM entitlement_changes")  # a lock that ALTER TABLE does not get along with

        def pause(pause_s: float) -> None:
            other.execute("SELECT FROM entitlement_changes")  # would wait behind a migration that waits
            paused.append(pause_s)
            holder.rollback()

        monkeypatch.setattr("time.sleep", pause)
        assert migrate(empty_database_url) == expected_revision()
    assert paused == [LOCK_PAUSE_S]


FORM_BETWEEN = """
    ALTER TABLE erasures DROP COLUMN walked;
    ALTER TABLE erasures ADD COLUMN walked_until_time timestamptz NOT NULL DEFAULT 'epoch';
    UPDATE erasures SET walked_until_time = until_time WHERE done_time IS NOT NULL;
"""


@pytest.mark.parametrize("between", ["", FORM_BETWEEN], ids=["as it was", "as it was for some commits"])
def test_what_was_erased_before_is_done_and_what_was_not_is_not(empty_database_url: str, between: str) -> None:
    migrate_to(empty_database_url, "0017")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO customers (customer_id) VALUES ('done'), ('under way')")
        connection.execute(
            "INSERT INTO erasures (customer_id, request_time, until_time, looked_time, looked_event_id, stripe_customer_body, done_time)"
            " VALUES ('done', now(), now(), now(), '', false, now()), ('under way', now(), now(), 'epoch', '', false, NULL)"
        )
        migrate_to(empty_database_url, "0018")
        connection.execute(between)
        migrate(empty_database_url)
        found = connection.execute(
            "SELECT customer_id FROM erasures WHERE done_time IS NOT NULL AND walked_until_time >= until_time"
        ).fetchall()
        index = connection.execute("SELECT pg_get_indexdef('erasures_unfinished_idx'::regclass)").fetchone()
    assert found == [("done",)]
    assert "walked_until_time" in (index or ("",))[0]


def test_a_migration_that_comes_again_does_not_need_the_tables_that_are_done(empty_database_url: str) -> None:
    migrate_to(empty_database_url, "0019")
    with psycopg.connect(empty_database_url) as vacuum:
        # The last; as a VACUUM by hand has it.
        vacuum.execute("LOCK TABLE stripe_objects IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailableError):
            migrate(empty_database_url, lock_tries=1)
        vacuum.rollback()
        vacuum.execute("LOCK TABLE customer_facts, customers IN SHARE UPDATE EXCLUSIVE MODE")  # the first
        assert migrate(empty_database_url, lock_tries=1) == expected_revision()


def test_a_migration_that_never_gets_its_lock_ends_and_has_changed_nothing(empty_database_url: str) -> None:
    migrate_to(empty_database_url, "0004")
    with psycopg.connect(empty_database_url) as holder:
        holder.execute("SELECT FROM entitlement_changes")
        with pytest.raises(DatabaseUnavailableError, match="lock"):
            migrate(empty_database_url, lock_tries=2, lock_pause_s=0)
        assert holder.execute("SELECT version_num FROM alembic_version").fetchall() == [("0004",)]


def test_a_migration_may_take_longer_than_a_transaction_of_a_program(empty_database_url: str) -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_sync(empty_database_url))
    with engine.connect() as connection:
        _take_turn(connection)
        assert connection.scalar(sa.text("SHOW transaction_timeout")) == "0"
    engine.dispose()


SLOW_VACUUM = {"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1"}
VACUUMED = """
    SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE backend_type = 'autovacuum worker' AND relation = 'customers'::regclass AND granted AND wait_event = 'VacuumDelay'
"""


@pytest.mark.slow
def test_a_migration_sends_an_autovacuum_away_that_is_in_its_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with EmbeddedPostgres(tmp_path / "postgres", settings=SLOW_VACUUM) as postgres:
        url = postgres.ensure_database("vacuumed")
        migrate_to(url, "0019")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO customers (customer_id) SELECT 'c' || n FROM generate_series(1, 50000) AS n"
            )
            connection.execute("UPDATE customers SET update_time = now()")
            until = time.monotonic() + 60
            while not connection.execute(VACUUMED).fetchall():
                assert time.monotonic() < until
        assert migrate(url, lock_tries=1) == expected_revision()


async def test_a_program_runs_on_a_newer_schema_until_that_no_longer_serves_it(empty_database_url: str) -> None:
    """What the migration notes decides: a release that only added is no reason to stop, one that took something away is."""
    migrate(empty_database_url)
    database = Database(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9998'")
        assert await schema_problem(database) is None
        assert migrate(empty_database_url) == "9998"
        connection.execute("COMMENT ON TABLE alembic_version IS 'Serves programs from schema 9997'")
        assert "upgrade it" in (await schema_problem(database) or "")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        assert "billing-service migrate" in (await schema_problem(database) or "")
    await database.close()


def test_two_migrations_at_once_run_one_after_the_other(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(migrate, [empty_database_url] * 4))
    assert found == [expected_revision()] * 4


async def test_a_pool_on_a_server_that_takes_no_writes_looks_for_one_that_does(
    empty_database_url: str, postgres: EmbeddedPostgres
) -> None:
    """A connection from before a failover does not stay in the pool, being refused for ever."""
    database = Database(empty_database_url)
    name = conninfo_to_dict(empty_database_url)["dbname"]

    async def write(connection: Connection) -> None:
        await connection.execute(sa.text("CREATE TABLE written ()"))

    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(str(name)))
        )
        await database.check()
        admin.execute(
            sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(sql.Identifier(str(name)))
        )
    with pytest.raises(ReadOnlyError):
        await database.run(write)
    await database.run(write)
    await database.close()


async def test_a_database_that_is_away_is_unavailable_and_not_a_driver_error() -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(DatabaseUnavailableError):
        await database.check()
    await database.close()


def test_migrating_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailableError):
        migrate("postgresql://nobody@127.0.0.1:9/none")


def test_statistics_are_kept_of_what_is_looked_for_and_not_of_bodies(database_url: str) -> None:
    """Also of a column that comes to these tables later: to sort a sample of bodies takes longer than all else that ANALYZE does."""
    written = [
        "customer_facts",
        "customers",
        "entitlement_changes",
        "quarantined_events",
        "stripe_events",
        "stripe_objects",
    ]
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO customers (customer_id) SELECT 'c' || n FROM generate_series(1, 500) AS n")
        connection.execute("ANALYZE customers")
        known = connection.execute("SELECT attname FROM pg_stats WHERE tablename = 'customers'").fetchall()
        counted = connection.execute(
            """SELECT attrelid::regclass::text, attname FROM pg_attribute
            WHERE attrelid = ANY(CAST(%s AS regclass[])) AND atttypid IN ('jsonb'::regtype, 'bytea'::regtype)
              AND NOT attisdropped AND attstattarget IS DISTINCT FROM 0""",
            [written],
        ).fetchall()
    assert {"customer_id", "revision"} <= {name for (name,) in known}
    assert "facts" not in {name for (name,) in known}
    assert counted == []


async def test_reading_a_customer_is_one_look_up_by_its_key(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO customers (customer_id) SELECT 'c' || n FROM generate_series(1, 5000) AS n")
        connection.execute("ANALYZE customers")
        rows = connection.execute(
            "EXPLAIN SELECT customer_id, revision, facts::text FROM customers"
            " WHERE customer_id = ANY(CAST(ARRAY['c77'] AS text[]))"
        ).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan using customers_pkey" in plan
    assert "Seq Scan" not in plan
