"""One real customer: buys at the stand-in Stripe, through the service; what was sent and what was stored become templates."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import grpc
import psycopg
from billing.v1 import billing_service_pb2_grpc, checkout_pb2
from psycopg import sql

from benchmarks.bodies import (
    CREATED_MARK,
    CUSTOMER_MARK,
    INVOICE,
    PERIOD_END_MARK,
    SESSION,
    SUBSCRIPTION,
    VISIT_MARK,
)
from benchmarks.errors import BenchmarkError

CUSTOMER_ID = "bench-customer"
_AWAITED = ("customer.subscription.", "invoice.paid", "invoice_payment.", "checkout.session.")
_TIMEOUT_S = 15.0
_POLL_S = 0.05
_IDS = re.compile(r"\b(?:cus|sub|si|in|il|pi|ch|inpay|re|cs_test|evt)_[A-Za-z0-9]{8,}|" + CUSTOMER_ID)
# In the order in which rows may be inserted. Requests of ours and the queue of re-reads are left out: they come and go.
TABLES = (
    "customers", "customer_facts", "stripe_customers", "stripe_objects", "stripe_links", "entitlement_changes", "stripe_events",
    "derivations",
)  # fmt: skip
# Of Stripe's ids these do not begin with the time at which they were made. In the published fixtures, which are of one hour, the others
# all begin alike: sub_1Pgc6r…, in_1Pgc6t…, dp_1Pgc71…, re_1Pgc72…, evt_1Pgc76….
_RANDOM = frozenset({"cs_test"})
_DRAWN = frozenset({"receipt", "position", "fact_id"})  # by the database, for each row
# What sessions carry at many companies; with it the body has the size that Stripe's own has.
_ATTRIBUTION = {
    f"utm_{name}": f"{name} of the campaign that brought this customer here, as the shop's page knew it"
    for name in ("source", "medium", "campaign", "term", "content", "referrer", "landing_page", "first_touch")
}


@dataclass(frozen=True)
class Column:
    """One value of a stored row, as text that is marked as bodies are; a payload stays bytes. `kind` is SQL's type."""

    name: str
    kind: LiteralString
    value: str | bytes | None


@dataclass(frozen=True)
class Row:
    """A stored row of the recorded customer."""

    table: str
    columns: Sequence[Column]


@dataclass(frozen=True)
class Recording:
    """Templates of events by type, and of rows."""

    templates: Mapping[str, str]
    rows: Sequence[Row]


def record(addresses: Mapping[str, str]) -> Recording:
    """Have one customer buy a subscription for a team and a one-time pass, and take down what came of it."""
    with grpc.insecure_channel(addresses["grpc"]) as channel:
        billing = billing_service_pb2_grpc.BillingServiceStub(channel)
        for plan_key in ("team", "export_pass"):
            request = checkout_pb2.CreateCheckoutSessionRequest(
                request_id=str(uuid.uuid4()),
                customer_id=CUSTOMER_ID,
                plan_key=plan_key,
                success_url="https://shop.example/done",
                cancel_url="https://shop.example/plans",
            )
            session = billing.CreateCheckoutSession(request, timeout=_TIMEOUT_S).checkout_session
            _control(addresses, f"checkout/sessions/{session.checkout_session_id}/complete", outcome="paid")
    events = _events(addresses)
    subscription = _last(events, SUBSCRIPTION)["data"]["object"]
    _control(addresses, f"subscriptions/{subscription['id']}/change", quantity=3)
    events = _events(addresses)
    _wait_recorded(addresses["database"], [event["id"] for event in events if event["type"].startswith(_AWAITED)])
    templates = {
        INVOICE: _invoice(_last(events, INVOICE)),
        SUBSCRIPTION: _subscription(_last(events, SUBSCRIPTION), _last(events, INVOICE)),
        SESSION: _session(_last(events, SESSION)),
    }
    return Recording(templates, _rows(addresses["database"]))


def _control(addresses: Mapping[str, str], path: str, **body: Any) -> None:
    request = urllib.request.Request(  # noqa: S310 - the loopback address of our own stand-in
        f"{addresses['control']}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
        answer.read()


def _events(addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give every event of the stand-in, the oldest first; there are a few dozen."""
    request = urllib.request.Request(  # noqa: S310 - the loopback address of our own stand-in
        f"{addresses['stripe']}/v1/events?limit=100", headers={"Authorization": f"Bearer {addresses['api_key']}"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - as above
        found: list[dict[str, Any]] = json.load(answer)["data"]
    return found[::-1]


def _last(events: Sequence[dict[str, Any]], event_type: str) -> dict[str, Any]:
    found = [event for event in events if event["type"] == event_type]
    if not found:
        raise BenchmarkError(f"the stand-in made no {event_type}")
    return found[-1]


def _wait_recorded(database_url: str, event_ids: Sequence[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    left = set(event_ids)
    with psycopg.connect(database_url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            left -= {row[0] for row in connection.execute("SELECT event_id FROM stripe_events").fetchall()}
            if not left:
                return
            time.sleep(_POLL_S)
    raise BenchmarkError(f"the service did not record what the stand-in sent: {sorted(left)}")


def _template(event: dict[str, Any], new_ids: Sequence[str]) -> str:
    """Mark an event, in the two-space indentation in which Stripe sends it."""
    name = event["type"].replace(".", "_")
    body = {**event, "id": "$id$", "created": CREATED_MARK.strip('"')}
    text = _marked(json.dumps(body, indent=2)).replace("$id$", f"evt_{VISIT_MARK}{name}{CUSTOMER_MARK}")
    for new in new_ids:
        text = text.replace(new + CUSTOMER_MARK, _new(new))
    return text


def _new(recorded: str) -> str:
    """Mark an id that is another one with each visit."""
    kind, _, rest = recorded.rpartition("_")
    if kind in _RANDOM:
        return f"{recorded}{CUSTOMER_MARK}{VISIT_MARK}"
    return f"{kind}_{VISIT_MARK}{rest}{CUSTOMER_MARK}"


def _invoice(event: dict[str, Any]) -> str:
    """A renewal's invoice: another one with each visit."""
    return _template(event, [event["data"]["object"]["id"]])


def _subscription(event: dict[str, Any], invoice: dict[str, Any]) -> str:
    """The renewal that goes with it: the next period, and the new invoice as the latest."""
    renewed = json.loads(json.dumps(event))
    found = renewed["data"]["object"]
    found["latest_invoice"] = invoice["data"]["object"]["id"]
    for item in found["items"]["data"]:
        item["current_period_end"] = PERIOD_END_MARK.strip('"')
    return _template(renewed, [invoice["data"]["object"]["id"]])


def _session(event: dict[str, Any]) -> str:
    """A completed one-time purchase: another session and payment with each visit."""
    completed = json.loads(json.dumps(event))
    found = completed["data"]["object"]
    found["metadata"] |= _ATTRIBUTION
    return _template(completed, [found["id"], found["payment_intent"]])


def _marked(text: str) -> str:
    return _IDS.sub(lambda match: match[0] + CUSTOMER_MARK, text)


def _rows(database_url: str) -> list[Row]:
    with psycopg.connect(database_url) as connection:
        return [row for table in TABLES for row in _rows_of(connection, table)]


def _rows_of(connection: psycopg.Connection[Any], table: str) -> list[Row]:
    """Take a table's rows as texts; only those of the customer, and of events only those that were applied."""
    columns = [
        (name, kind)
        for name, kind in connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_name = %s AND table_schema = 'public' AND is_generated = 'NEVER' ORDER BY ordinal_position",
            [table],
        )
        if name not in _DRAWN
    ]
    shown = sql.SQL(", ").join(
        sql.Identifier(name) if kind == "bytea" else sql.SQL("{}::text").format(sql.Identifier(name))
        for name, kind in columns
    )
    kept = sql.SQL(" WHERE outcome = 'applied'") if table == "stripe_events" else sql.SQL("")
    rows = connection.execute(sql.SQL("SELECT {} FROM {}{}").format(shown, sql.Identifier(table), kept)).fetchall()
    return [
        Row(table, [_column(name, kind, value) for (name, kind), value in zip(columns, row, strict=True)])
        for row in rows
    ]


def _column(name: str, kind: LiteralString, value: str | bytes | None) -> Column:
    return Column(name, kind, _marked(value) if isinstance(value, str) else value)
