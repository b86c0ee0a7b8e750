"""Customers by the hundred thousand: the recorded customer's rows, written again by SQL with other numbers in their ids."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.bodies import CUSTOMER_MARK
from benchmarks.recording import Column, Recording, Row

STEP = 50_000  # customers in one statement: progress, and transactions of a bounded size


# What webhooks only append to, and never read.
_APPENDED = ("customer_facts", "entitlement_changes")
# That everybody was looked at with this catalog; without it a service does that first, for minutes, beside what is measured.
_OF_ALL = "derivations"


def load(
    database_url: str, recording: Recording, customers: int, *, events_each: int | None = None, whole: bool = False
) -> None:
    """Give a migrated database so many customers, each with everything that the recorded one has.

    `events_each` bounds the past events of each (default: all of the recorded ones). The log of changes and the past facts are
    left out unless the database is to be `whole`, which has the first of each.
    """
    once = [row for row in recording.rows if row.table == _OF_ALL]
    each = [row for row in recording.rows if row.table not in {"stripe_events", _OF_ALL, *_APPENDED}]
    for table in _APPENDED if whole else ():
        each += [row for row in recording.rows if row.table == table][:1]
    each += [row for row in recording.rows if row.table == "stripe_events"][:events_each]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET session_replication_role = replica")  # what is copied was checked when it was recorded
        connection.execute("ALTER SYSTEM SET max_wal_size = '32GB'")  # no checkpoint after each gigabyte
        connection.execute("SELECT pg_reload_conf()")
        for first in range(0, customers, STEP):
            last = min(first + STEP, customers) - 1
            for _, rows in groupby(each, lambda row: row.table):
                connection.execute(*_copies(list(rows), first, last))
            sys.stderr.write(f"{last + 1:,} of {customers:,} customers\n")
        for row in once:
            connection.execute(*_copies([row], 0, 0))
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("ALTER SYSTEM RESET max_wal_size")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CHECKPOINT")


def add_renewals(database_url: str, recording: Recording, customers: int, each: int) -> None:
    """Give every customer of a population so many invoices more, each paid, with its payment and what ties them together."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        _add(connection, [row for row in recording.rows if _id(row).startswith(("in_", "inpay_"))], customers, each)
        connection.execute("VACUUM (ANALYZE)")


def add_purchases(database_url: str, recording: Recording, customers: int, each: int) -> None:
    """Give every customer of a population so many passes more, each paid; with what the customer's row has of them."""
    bought = {
        _id(row)
        for row in recording.rows
        if row.table == "stripe_objects" and Column("settled", "boolean", "true") in row.columns
    }
    with psycopg.connect(database_url, autocommit=True) as connection:
        _add(connection, [row for row in recording.rows if _id(row) in bought], customers, each)
        connection.execute(_BOUGHT, [each])
        connection.execute("VACUUM (ANALYZE)")


# The ids of what is another one each time; a customer and a subscription are the same.
_ADDED_IDS = f"((?:in|inpay|pi|evt|cs_test)_[A-Za-z0-9]+){CUSTOMER_MARK}"
_BOUGHT = """
    UPDATE customers AS c SET facts = jsonb_set(facts, '{purchases}', (facts -> 'purchases') || (
        SELECT jsonb_agg(first || jsonb_build_object('checkout_session_id', first ->> 'checkout_session_id' || 'x' || lpad(k::text, 6, '0')))
        FROM jsonb_extract_path(facts, 'purchases', '0') AS first, generate_series(1, %s::int) AS k))
"""


def _id(row: Row) -> str:
    return str(row.columns[0].value) if row.table in {"stripe_objects", "stripe_links"} else ""


def _add(connection: psycopg.Connection[Any], rows: Sequence[Row], customers: int, each: int) -> None:
    """Write rows again for every customer, so many times, each time with ids of their own."""
    for row in rows:
        statement = sql.SQL(
            "INSERT INTO {} ({}) SELECT {} FROM generate_series(0, %s::int) AS n, generate_series(1, %s::int) AS k"
        ).format(
            sql.Identifier(row.table),
            sql.SQL(", ").join(sql.Identifier(column.name) for column in row.columns),
            sql.SQL(", ").join(_added_value(column) for column in row.columns),
        )
        connection.execute(statement, [*(column.value for column in row.columns), customers - 1, each])


def _added_value(column: Column) -> sql.Composable:
    kind = sql.SQL(column.kind)
    if not isinstance(column.value, str) or CUSTOMER_MARK not in column.value:
        return sql.SQL("CAST(%s AS {})").format(kind)
    own = sql.SQL("regexp_replace(%s::text, {}, '\\1c' || n || 'x' || lpad(k::text, 6, '0'), 'g')").format(
        sql.Literal(_ADDED_IDS)
    )
    return sql.SQL("CAST(replace({}, {}, 'c' || n) AS {})").format(own, sql.Literal(CUSTOMER_MARK), kind)


def _copies(rows: Sequence[Row], first: int, last: int) -> tuple[sql.Composed, list[Any]]:
    """Give the statement, and its parameters, that writes a table's rows for each number in a range.

    One customer's rows after the other's: what somebody does at one time comes to lie together, as it does at a real one.
    """
    each = [sql.SQL("({})").format(sql.SQL(", ").join(_value(column) for column in row.columns)) for row in rows]
    statement = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT made.* FROM generate_series(%s::int, %s::int) AS n"
        " CROSS JOIN LATERAL (VALUES {values}) AS made"
    ).format(
        table=sql.Identifier(rows[0].table),
        names=sql.SQL(", ").join(sql.Identifier(column.name) for column in rows[0].columns),
        values=sql.SQL(", ").join(each),
    )
    return statement, [first, last, *(column.value for row in rows for column in row.columns)]


def _value(column: Column) -> sql.Composable:
    kind = sql.SQL(column.kind)
    if isinstance(column.value, str) and CUSTOMER_MARK in column.value:
        return sql.SQL("CAST(replace(%s::text, {}, 'c' || n) AS {})").format(sql.Literal(CUSTOMER_MARK), kind)
    return sql.SQL("CAST(%s AS {})").format(kind)
