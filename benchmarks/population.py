"""Customers by the hundred thousand: the recorded customer's rows, written again by SQL with other numbers in their ids."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from benchmarks.bodies import CUSTOMER_MARK
from benchmarks.recording import Column, Recording, Row

STEP = 50_000  # customers in one statement: progress, and transactions of a bounded size


def load(database_url: str, recording: Recording, customers: int, *, events_each: int | None = None) -> None:
    """Give a migrated database so many customers, each with everything that the recorded one has.

    `events_each` bounds the past events of each (default: all of the recorded ones).
    """
    events = [row for row in recording.rows if row.table == "stripe_events"][:events_each]
    # The log of changes is left out: its positions are drawn one by one, and no webhook reads it.
    others = [row for row in recording.rows if row.table not in {"stripe_events", "entitlement_changes"}]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for first in range(0, customers, STEP):
            last = min(first + STEP, customers) - 1
            for row in (*others, *events):
                connection.execute(*_copies(row, first, last))
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def _copies(row: Row, first: int, last: int) -> tuple[sql.Composed, list[Any]]:
    """Give the statement, and its parameters, that writes a row for each number in a range."""
    shown = sql.SQL(", ").join(_value(column) for column in row.columns)
    statement = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} FROM generate_series(%s::int, %s::int) AS n"
    ).format(
        table=sql.Identifier(row.table),
        names=sql.SQL(", ").join(sql.Identifier(column.name) for column in row.columns),
        values=shown,
    )
    return statement, [*(column.value for column in row.columns), first, last]


def _value(column: Column) -> sql.Composable:
    kind = sql.SQL(column.kind)
    if isinstance(column.value, str) and CUSTOMER_MARK in column.value:
        return sql.SQL("CAST(replace(%s::text, {}, 'c' || n) AS {})").format(sql.Literal(CUSTOMER_MARK), kind)
    return sql.SQL("CAST(%s AS {})").format(kind)
