"""Each migration, on a database that has rows and is in use: nobody waits while rows are gone through, and it may be broken off anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import sql

from billing_service.storage import migrations
from billing_service.storage.database import connect_sync
from billing_service.storage.schema import LOCK_TIMEOUT_MS, _config, expected_revision
from sandbox.postgres import EmbeddedPostgres

REVISIONS = [script.revision for script in reversed(list(ScriptDirectory.from_config(_config()).walk_revisions()))]
ROWS = 500
FEW = 50  # rows that a statement may touch while others are kept out
# What may go through rows: it takes no lock that keeps readers or writers out, or does a bounded part.
LETS_OTHERS_WORK = re.compile(r"\bCONCURRENTLY\b|\bVALIDATE CONSTRAINT\b|\bLIMIT \d+\b", re.IGNORECASE)

# Rows of each table, in the columns that it had at first. A migration that adds a table adds a line here once another changes it.
FILL = {
    "customers": """(customer_id, facts) SELECT 'c' || lpad(n::text, 6, '0'), '{"a": 1}'""",
    "stripe_events": """(event_id, type, created, object_id, livemode, outcome, payload)
        SELECT 'evt_' || n, 'x', n, 'sub_' || n, false, 'ignored', '{}'""",
    "stripe_objects": """(object_id, kind, payload_terminal, payload_created, payload_rank, payload_event_id, payload_receipt, payload_view)
        SELECT 'sub_' || n, 'subscription', false, 1, 1, 'evt_1', 1, '{}'""",
    "quarantined_events": "(event_key, payload, reason, detail) SELECT 'k' || n, '', 'malformed', ''",
    "checkout_intents": """(intent_id, customer_id, plan_key, price_key, plan_group, quantity, fingerprint, state, request_body,
        expire_time, create_time) SELECT gen_random_uuid(), 'c' || lpad(n::text, 6, '0'), 'pro', 'm', 'g', 1, '', 'creating', '{}', now(), now()""",
    "stripe_links": "(object_id, anchor_id) SELECT 'sub_' || n, 'in_' || n",
    "entitlement_changes": """(customer_id, revision, change_time, cause, catalog_version, before, after)
        SELECT 'c' || lpad(n::text, 6, '0'), 1, now() - n * interval '1 hour', 'event', 'v', '{}', '{}'""",
    "findings": "(kind, subject, detail) SELECT 'drift', 's' || n, '{}'",
    "rereads": "(object_id, kind) SELECT 'sub_' || n, 'subscription'",
    "reconcile_runs": "(since, until, done_until, state) SELECT 0, 1, 1, 'complete'",
    "subscription_requests": """(request_id, intent_id, fingerprint, customer_id, stripe_subscription_id, operation, state, create_time)
        SELECT 'r' || n, gen_random_uuid(), '', 'c000001', 'sub_' || n, 'resume', 'superseded', now()""",
    "customer_facts": "(customer_id, change_time, revision, facts) SELECT 'c000001', now(), 1, '{}'",
    "operator_requests": "(request_id, operation, fingerprint, actor, reason, answer) SELECT 'r' || n, 'x', '', 'eve', 'y', '{}'",
    "grants": """(grant_id, customer_id, plan_key, override, start_time, actor, reason, create_time)
        SELECT 'g' || n, 'c000001', 'pro', false, now(), 'eve', '', now()""",
}
_SCHEMA = """
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'S')
    UNION ALL
    SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, NULL FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, NULL
    FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), NULL, NULL FROM pg_trigger WHERE NOT tgisinternal
    ORDER BY 1, 2, 3, 4
"""
# In a transaction that goes on, by whom asks; and what has been handed over, by anybody.
_TOUCHED = """
    SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del FROM {} WHERE schemaname = 'public'
"""

Hook = Callable[[psycopg.Connection[Any], str], None]


class BrokenOffError(Exception):
    """The process was ended."""


def nothing(connection: psycopg.Connection[Any], statement: str) -> None:
    """Let a statement pass."""
    del connection, statement


@contextmanager
def migrating(url: str, before: Hook = nothing, after: Hook = nothing) -> Iterator[Callable[[str], None]]:
    """Give what brings a database to a revision, with a look before and after each statement of a migration."""
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_sync(url))

    def told(hook: Hook) -> Callable[..., None]:
        def tell(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
            if "alembic_version" not in statement and "pg_catalog" not in statement:
                hook(connection.connection.dbapi_connection, statement)  # type: ignore[arg-type]  # psycopg's

        return tell

    def to(revision: str) -> None:
        with engine.connect() as connection:
            connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            connection.commit()
            sa.event.listen(engine, "before_cursor_execute", told(before))
            sa.event.listen(engine, "after_cursor_execute", told(after))
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            connection.commit()

    try:
        yield to
    finally:
        engine.dispose()


def fill(url: str) -> None:
    """Put rows into each table that has none."""
    with psycopg.connect(url) as connection:
        for table, rows in FILL.items():
            there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
            if there != (True,) or connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():  # noqa: S608 - named above
                continue
            connection.execute(f"INSERT INTO {table} {rows} FROM generate_series(1, {ROWS}) AS n")


class Filled:
    """Databases at the revision before each one, filled: made once, each from the one before it, and copied for whoever wants one."""

    def __init__(self, postgres: EmbeddedPostgres, admin: psycopg.Connection[Any]) -> None:
        """Begin with none."""
        self._postgres = postgres
        self._admin = admin
        self._made: set[str] = set()

    @contextmanager
    def before(self, revision: str) -> Iterator[str]:
        """Give the URL of a database of the caller's own; it is dropped afterwards."""
        original, copy = self._original(revision), sql.Identifier("filled_copy")
        self._copy(original, copy)
        try:
            yield self._postgres.url("filled_copy")
        finally:
            self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(copy))

    def _original(self, revision: str) -> sql.Identifier:
        name = f"filled_before_{revision}"
        if revision not in self._made:
            place = REVISIONS.index(revision)
            if place == 0:
                self._admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            else:
                earlier = REVISIONS[place - 1]
                self._copy(self._original(earlier), sql.Identifier(name))
                with migrating(self._postgres.url(name)) as to:
                    to(earlier)
                fill(self._postgres.url(name))
            self._made.add(revision)
        return sql.Identifier(name)

    def _copy(self, original: sql.Identifier, copy: sql.Identifier) -> None:
        self._admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(copy, original))


@pytest.fixture(scope="session")
def filled(postgres: EmbeddedPostgres) -> Iterator[Filled]:
    """Those databases, on this worker's server."""
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        yield Filled(postgres, admin)


def schema(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(_SCHEMA).fetchall()


class Watch:
    """Counts the rows that each statement touches of tables that were there, and keeps those that touch too many."""

    def __init__(self, url: str) -> None:
        """Look at a database in which nothing else goes on."""
        self._outside = psycopg.connect(url, autocommit=True)
        self._there = {row[0] for row in self._outside.execute(_TOUCHED.format("pg_stat_user_tables"))}
        self._before: dict[str, int] = {}
        self.rude: list[str] = []

    def close(self) -> None:
        """Look no more."""
        self._outside.close()

    def before(self, connection: psycopg.Connection[Any], statement: str) -> None:
        """Remember what was touched so far."""
        del statement
        self._before = self._touched(connection)

    def after(self, connection: psycopg.Connection[Any], statement: str) -> None:
        """See what a statement touched; in a transaction it keeps whatever lock it took until the end."""
        touched = self._touched(connection)
        many = {table for table in self._there if touched.get(table, 0) - self._before.get(table, 0) > FEW}
        if many and not (connection.autocommit and LETS_OTHERS_WORK.search(statement)):
            self.rude.append(f"{sorted(many)}: {' '.join(statement.split())[:200]}")

    def _touched(self, connection: psycopg.Connection[Any]) -> dict[str, int]:
        if not connection.autocommit:
            return dict(connection.execute(_TOUCHED.format("pg_stat_xact_user_tables")).fetchall())
        connection.execute("SELECT pg_stat_force_next_flush()")
        return dict(self._outside.execute(_TOUCHED.format("pg_stat_user_tables")).fetchall())


def rudeness(url: str, work: Callable[[Callable[[str], None]], None]) -> list[str]:
    with closing(Watch(url)) as watch, migrating(url, watch.before, watch.after) as to:
        work(to)
        return watch.rude


@pytest.mark.parametrize("revision", REVISIONS[1:])
def test_nobody_is_kept_out_of_a_table_while_its_rows_are_gone_through(filled: Filled, revision: str) -> None:
    """What touches many rows commits by itself, and is of a kind that lets others read and write."""
    with filled.before(revision) as url:
        assert rudeness(url, lambda to: to(revision)) == []


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE customers SET revision = 2"],
        ["CREATE INDEX x ON customers (update_time)"],
        ["ALTER TABLE customers ADD COLUMN x uuid NOT NULL DEFAULT gen_random_uuid()"],
        ["ALTER TABLE customers ADD CONSTRAINT x CHECK (revision < 9)"],
        ["CREATE TABLE x AS SELECT * FROM customers"],
    ],
    ids=lambda statements: statements[0].split()[0] + statements[0].split()[-1],
)
@pytest.mark.parametrize("alone", [True, False], ids=["by itself", "in a transaction"])
def test_a_statement_that_keeps_others_out_is_found(filled: Filled, statements: list[str], alone: bool) -> None:
    """What the test above looks for is seen, in a transaction and outside of one."""
    with (
        filled.before("0002") as url,
        closing(Watch(url)) as watch,
        psycopg.connect(url, autocommit=alone) as connection,
    ):
        for statement in statements:
            watch.before(connection, statement)
            connection.execute(statement)
            watch.after(connection, statement)
        assert len(watch.rude) == 1


@pytest.mark.parametrize("revision", REVISIONS[1:])
def test_a_migration_that_is_broken_off_anywhere_is_done_by_the_next_run(filled: Filled, revision: str) -> None:
    """After each statement that commits by itself; the rest is one transaction, with the note of the revision."""
    committed: list[int] = []
    seen = 0

    def count(connection: psycopg.Connection[Any], statement: str) -> None:
        nonlocal seen
        del statement
        seen += 1
        if connection.autocommit:
            committed.append(seen)

    def broken_off_at(place: int) -> Hook:
        left = place

        def break_off(connection: psycopg.Connection[Any], statement: str) -> None:
            nonlocal left
            del connection, statement
            left -= 1
            if left == 0:
                raise BrokenOffError

        return break_off

    with filled.before(revision) as url:
        with migrating(url, after=count) as to:
            to(revision)
        whole = schema(url)
    for place in committed:
        with filled.before(revision) as url:
            with migrating(url, after=broken_off_at(place)) as to, suppress(BrokenOffError):
                to(revision)
            with migrating(url) as to:
                to(revision)
            assert schema(url) == whole, place


def test_who_writes_while_the_log_is_numbered_waits_for_nothing_and_comes_after_what_was_there(filled: Filled) -> None:
    """Between any two statements of all migrations after the fourth, as the program of that release writes."""
    number = 0
    with filled.before("0005") as url, psycopg.connect(url, autocommit=True) as writer:
        writer.execute("SET lock_timeout = '200ms'")

        def write(connection: psycopg.Connection[Any], statement: str) -> None:
            nonlocal number
            del statement
            if not connection.autocommit:
                return
            number += 1
            writer.execute("UPDATE customers SET revision = revision + 1 WHERE customer_id = 'c000001'")
            writer.execute(
                "INSERT INTO entitlement_changes (customer_id, revision, cause, catalog_version, before, after)"
                " VALUES ('c000001', %s, 'event', 'v', '{}', '{}')",
                [1 + number],
            )

        with migrating(url, after=write) as to:
            to(expected_revision())
        rows = writer.execute(
            "SELECT customer_id, revision FROM entitlement_changes WHERE change_time < now() ORDER BY position"
        ).fetchall()
        facts = writer.execute("SELECT count(*), count(DISTINCT customer_id) FROM customer_facts").fetchone()
    assert number > len(REVISIONS)
    assert rows == [(f"c{n:06}", 1) for n in range(ROWS, 0, -1)] + [("c000001", 1 + n) for n in range(1, number + 1)]
    assert facts == (ROWS, ROWS)


def test_every_migration_is_gone_through_here() -> None:
    assert len(REVISIONS) == len(list((Path(migrations.__path__[0]) / "versions").glob("[0-9]*.py")))
