"""What is known of Stripe's objects, kept by their Stripe id, with or without a customer of ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from billing_service.domain.bills import past_invoice
from billing_service.domain.facts import is_settled_purchase
from billing_service.domain.json_fields import MalformedError, words
from billing_service.domain.merge import ObjectState, Payload, Read, is_absorbing, lifecycle_rank
from billing_service.domain.observation import Fact
from billing_service.domain.views import (
    ChargeView,
    CustomerView,
    DisputeView,
    InvoicePaymentView,
    InvoiceView,
    ObjectKind,
    RefundView,
    SessionView,
    SubscriptionView,
    View,
)
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection

# Made once: to look a type up at each row took longer than to read the row.
_DECODERS: Mapping[ObjectKind, msgspec.json.Decoder[View]] = {
    kind: msgspec.json.Decoder(view_type)
    for kind, view_type in (
        (ObjectKind.CHECKOUT_SESSION, SessionView),
        (ObjectKind.SUBSCRIPTION, SubscriptionView),
        (ObjectKind.INVOICE, InvoiceView),
        (ObjectKind.INVOICE_PAYMENT, InvoicePaymentView),
        (ObjectKind.CHARGE, ChargeView),
        (ObjectKind.REFUND, RefundView),
        (ObjectKind.DISPUTE, DisputeView),
        (ObjectKind.CUSTOMER, CustomerView),
    )
}
_KINDS = words(ObjectKind)
_decode_facts = msgspec.json.Decoder(dict[Fact, int]).decode
_decode_overdue = msgspec.json.Decoder(dict[str, int]).decode
MOST_OVERDUE = 12  # invoices by which a subscription was ever past due; the latest one alone says something

# An object that is new has no row to lock.
_LOCK = sa.text("""
    SELECT pg_advisory_xact_lock(key) FROM (
        SELECT hashtextextended(id, 0) AS key FROM unnest(CAST(:ids AS text[])) AS id
        UNION SELECT hashtextextended(id, 1) FROM unnest(CAST(:anchors AS text[])) AS id
        ORDER BY key) AS keys
""")
_COLUMNS = """
    object_id, kind, stripe_customer_id, payload_created, payload_event_id, payload_receipt,
    payload_view::text AS payload_view, read_fence, read_request_time, read_time, read_view::text AS read_view,
    facts::text AS facts, overdue::text AS overdue
"""
# Of these customers, whichever Stripe customer an object names, every object that may still say anything (see `PastInvoice`): what is
# not past, the latest invoice of each subscription by either register, the latest past ones, what went void since the one that was paid
# and may have begun a period, at most twenty, and what hangs together with any of these.
# In few steps, each of which has to be set up anew at every run; what has no such invoice gives NULLs, which lead nowhere.
_LOAD_TEXT = f"""
    WITH RECURSIVE related (object_id) AS (
        (SELECT unnest(ARRAY[
            o.object_id, o.latest, o.latest_read, paid.object_id,
            CASE WHEN o.kind = 'subscription' THEN (
                SELECT i.object_id FROM stripe_objects AS i WHERE i.past_subscription_id = o.object_id AND NOT i.past_paid
                ORDER BY i.past_created DESC, i.object_id DESC LIMIT 1) END]
            || CASE WHEN o.kind = 'subscription' THEN ARRAY(
                SELECT i.object_id FROM stripe_objects AS i
                WHERE i.past_subscription_id = o.object_id AND i.past_paid IS NULL AND i.past_created >= coalesce(paid.past_created, 0)
                ORDER BY i.past_created DESC, i.object_id DESC LIMIT 20) END)
         FROM (
            SELECT object_id, kind, payload_view ->> 'latest_invoice_id' AS latest, read_view ->> 'latest_invoice_id' AS latest_read
            FROM stripe_objects
            WHERE NOT past AND stripe_customer_id IN (
                SELECT stripe_customer_id FROM stripe_customers WHERE customer_id = ANY(CAST(:customers AS text[])))
              AND NOT settled
          UNION ALL
            SELECT id COLLATE "C", kind, NULL, NULL
            FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[])) AS arriving (id, kind)) AS o
         LEFT JOIN LATERAL (
            SELECT i.object_id, i.past_created FROM stripe_objects AS i
            WHERE o.kind = 'subscription' AND i.past_subscription_id = o.object_id AND i.past_paid
            ORDER BY i.past_created DESC, i.object_id DESC LIMIT 1) AS paid ON true)
      UNION
        SELECT other.object_id
        FROM related JOIN stripe_links AS own USING (object_id) JOIN stripe_links AS other USING (anchor_id)
    )
    SELECT {_COLUMNS} FROM related JOIN stripe_objects USING (object_id)
  UNION ALL
    SELECT object_id, kind, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, facts::text, NULL
    FROM related JOIN told_facts USING (object_id)
"""  # noqa: S608 - the columns are a constant of this module
_LOAD = sa.text(_LOAD_TEXT)
_LOAD_SETTLED_TOO = sa.text(_LOAD_TEXT.replace("AND NOT settled", ""))
_SAVE = sa.text("""
    INSERT INTO stripe_objects AS o (
        object_id, kind, stripe_customer_id,
        payload_terminal, payload_created, payload_rank, payload_event_id, payload_receipt, payload_view,
        read_terminal, read_fence, read_request_time, read_time, read_view, facts,
        past, past_subscription_id, past_paid, past_created, settled, overdue)
    SELECT object_id, kind, stripe_customer_id,
           payload_terminal, payload_created, payload_rank, payload_event_id, payload_receipt, payload_view,
           read_terminal, read_fence, read_request_time, read_time, read_view, facts,
           past, past_subscription_id, past_paid, past_created, settled, overdue
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row (
        object_id text, kind text, stripe_customer_id text,
        payload_terminal boolean, payload_created bigint, payload_rank smallint, payload_event_id text,
        payload_receipt bigint, payload_view jsonb,
        read_terminal boolean, read_fence bigint, read_request_time bigint, read_time bigint, read_view jsonb,
        facts jsonb, past boolean, past_subscription_id text, past_paid boolean, past_created bigint,
        settled boolean, overdue jsonb)
    ORDER BY object_id COLLATE "C"
    ON CONFLICT (object_id) DO UPDATE SET
        stripe_customer_id = excluded.stripe_customer_id,
        payload_terminal = excluded.payload_terminal, payload_created = excluded.payload_created,
        payload_rank = excluded.payload_rank, payload_event_id = excluded.payload_event_id,
        payload_receipt = excluded.payload_receipt, payload_view = excluded.payload_view,
        read_terminal = excluded.read_terminal, read_fence = excluded.read_fence,
        read_request_time = excluded.read_request_time, read_time = excluded.read_time,
        read_view = excluded.read_view, facts = excluded.facts, past = excluded.past,
        past_subscription_id = excluded.past_subscription_id, past_paid = excluded.past_paid,
        past_created = excluded.past_created, settled = excluded.settled, overdue = excluded.overdue,
        update_time = now()
    -- The locks make this always true; it stands so that a mistake in them could not move a register down.
    WHERE (o.payload_created IS NULL
           OR (excluded.payload_terminal, excluded.payload_created, excluded.payload_rank, excluded.payload_event_id)
              >= (o.payload_terminal, o.payload_created, o.payload_rank, o.payload_event_id))
      AND (o.read_fence IS NULL
           OR (excluded.read_terminal, excluded.read_fence) >= (o.read_terminal, o.read_fence))
""")
_VIEW = sa.text(f"SELECT {_COLUMNS} FROM stripe_objects WHERE object_id = :object_id")  # noqa: S608 - as above
# All ids of a kind begin alike, so that this is a range of the primary key.
_UNFINISHED = sa.text("""
    SELECT object_id FROM stripe_objects
    WHERE kind = :kind AND object_id > greatest(CAST(:after AS text), :prefix) AND object_id < :end
      AND NOT coalesce(payload_terminal, false) AND NOT coalesce(read_terminal, false)
      AND (CAST(:mode AS text) IS NULL OR coalesce(read_view, payload_view) ->> 'mode' = :mode)
    ORDER BY object_id LIMIT :most
""")
_KNOWN = sa.text("SELECT object_id FROM stripe_objects WHERE object_id = ANY(CAST(:ids AS text[]))")
_PREFIXES: Mapping[ObjectKind, str] = {ObjectKind.SUBSCRIPTION: "sub_", ObjectKind.CHECKOUT_SESSION: "cs_"}
_STRIPE_CUSTOMERS = sa.text("""
    SELECT stripe_customer_id FROM stripe_objects
    WHERE object_id = ANY(CAST(:ids AS text[])) AND stripe_customer_id IS NOT NULL
""")
_FENCE = sa.text("SELECT nextval('stripe_fence')")


def lock(connection: Connection, ids: Collection[str], anchors: Collection[str] = ()) -> Answer[Result]:
    """Lock objects, new ones too, and anchors, in an order that is the same everywhere. After event ids and prices in the order of locks.

    Two objects that hang together by an anchor never pass each other unseen.
    """
    return connection.send(_LOCK, {"ids": sorted(ids), "anchors": sorted(anchors)})


def load(
    connection: Connection, kinds: Mapping[str, ObjectKind], customer_ids: Collection[str], *, settled_too: bool
) -> Answer[list[ObjectState]]:
    """Give these objects, and every object of these customers that may still say anything. Call after the locks.

    Without `settled_too` not those purchases that `is_settled_purchase` names, unless something that arrives hangs on one.
    Raises MalformedError where one is not understood. What was only told of one (`told_facts`) is a state of its own beside that of its row, to be joined. `kinds` is of objects that arrive, and of those that they name: what they say first may be about objects that are past.
    """
    values = {"ids": [*kinds], "kinds": [kind.value for kind in kinds.values()], "customers": sorted(customer_ids)}
    return connection.ask(_LOAD_SETTLED_TOO if settled_too else _LOAD, values, _states)


def stripe_customers_of(connection: Connection, object_ids: Collection[str]) -> Answer[frozenset[str]]:
    """Give the Stripe customers that locked objects are known to name."""
    return connection.ask(_STRIPE_CUSTOMERS, {"ids": sorted(object_ids)}, _stripe_customers)


async def find(connection: Connection, object_id: str) -> ObjectState | None:
    """Give one object, or None where nothing is known of it. Raises MalformedError where it is not understood."""
    row = (await connection.execute(_VIEW, {"object_id": object_id})).one_or_none()
    return None if row is None else _state(row)


def save(connection: Connection, states: Iterable[ObjectState], disputed: Collection[str] = ()) -> Answer[Result]:
    """Write joined states over what is there; a register never moves down. `disputed` are ids of invoices, which are not past then."""
    rows = [_row(state, is_disputed=state.object_id in disputed) for state in states]
    return connection.send(_SAVE, {"rows": msgspec.json.encode(rows).decode()})


async def unfinished(
    connection: Connection, kind: ObjectKind, *, after: str, most: int, mode: str | None = None
) -> list[str]:
    """Give the ids of the next objects of a kind that are not final, in their order; of sessions, those of a mode."""
    prefix = _PREFIXES[kind]
    values = {"kind": kind.value, "after": after, "most": most, "mode": mode}
    result = await connection.execute(_UNFINISHED, values | {"prefix": prefix, "end": prefix[:-1] + "`"})
    return [row.object_id for row in result]


async def known(connection: Connection, ids: Collection[str]) -> set[str]:
    """Give those of these objects of which anything is known."""
    return {row.object_id for row in await connection.execute(_KNOWN, {"ids": sorted(ids)})}


async def draw_fence(connection: Connection) -> int:
    """Draw a fence for a read whose request has not left yet."""
    fence: int = (await connection.execute(_FENCE)).scalar_one()
    return fence


def _stripe_customers(result: Result) -> frozenset[str]:
    return frozenset(row.stripe_customer_id for row in result)


def _states(result: Result) -> list[ObjectState]:
    return [_state(row) for row in result]


def _row(state: ObjectState, *, is_disputed: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "object_id": state.object_id,
        "kind": state.kind.value,
        "stripe_customer_id": state.stripe_customer_id,
        "facts": state.facts,
        "settled": is_settled_purchase(state),
    }
    if state.overdue is not None:
        row["overdue"] = dict(sorted(state.overdue.items(), key=lambda one: one[1])[-MOST_OVERDUE:])
    past = None if is_disputed else past_invoice(state)
    row["past"] = past is not None
    if past is not None and past.subscription_id is not None:
        row |= {
            "past_subscription_id": past.subscription_id,
            "past_paid": past.paid,
            "past_created": past.created,
        }
    if state.payload is not None:
        row |= {
            "payload_terminal": is_absorbing(state.payload.view),
            "payload_created": state.payload.created,
            "payload_rank": lifecycle_rank(state.payload.view),
            "payload_event_id": state.payload.event_id,
            "payload_receipt": state.payload.receipt,
            "payload_view": state.payload.view,
        }
    if state.read is not None:
        row |= {
            "read_terminal": is_absorbing(state.read.view),
            "read_fence": state.read.fence,
            "read_request_time": state.read.request_time,
            "read_time": state.read.read_time,
            "read_view": state.read.view,
        }
    return row


def _state(row: sa.Row[Any]) -> ObjectState:
    try:
        return _read(row)
    except (msgspec.ValidationError, ValueError) as error:  # of a newer release, which was taken back
        raise MalformedError(f"what is kept of a {row.kind} is not understood") from error


def _read(row: sa.Row[Any]) -> ObjectState:
    kind = _KINDS.get(row.kind) or ObjectKind(row.kind)
    decode = _DECODERS[kind].decode
    payload = read = None
    if row.payload_view is not None:
        view = decode(row.payload_view)
        payload = Payload(row.payload_created, row.payload_event_id, row.payload_receipt, view)
    if row.read_view is not None:
        view = decode(row.read_view)
        read = Read(row.read_fence, row.read_request_time, row.read_time, view)
    facts = _decode_facts(row.facts)
    overdue = None if row.overdue is None else _decode_overdue(row.overdue)
    return ObjectState(row.object_id, kind, row.stripe_customer_id, payload, read, facts, overdue)
