"""Which objects hang together: each names anchors (a payment intent, an invoice, a charge) that others name too.

A refund or dispute names no Stripe customer, and may come before whatever ties it to one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from billing_service.domain.frozen import frozen
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection


@frozen
class Related:
    """What hangs together with some anchors: every anchor, and the Stripe customers that its objects name."""

    anchors: frozenset[str]
    stripe_customer_ids: frozenset[str]


_SAVE = sa.text("""
    INSERT INTO stripe_links (object_id, anchor_id)
    SELECT object_id, anchor_id
    FROM unnest(CAST(:objects AS text[]), CAST(:anchors AS text[])) AS n (object_id, anchor_id)
    ORDER BY object_id COLLATE "C", anchor_id COLLATE "C"
    ON CONFLICT DO NOTHING
""")
_RELATED = sa.text("""
    WITH RECURSIVE reached (anchor_id) AS (
        SELECT unnest(CAST(:ids AS text[])) COLLATE "C"
      UNION
        SELECT other.anchor_id
        FROM reached JOIN stripe_links AS own USING (anchor_id) JOIN stripe_links AS other USING (object_id)
    )
    SELECT reached.anchor_id, o.stripe_customer_id
    FROM reached LEFT JOIN stripe_links AS l USING (anchor_id) LEFT JOIN stripe_objects AS o USING (object_id)
""")
_IS_TIED = sa.text("""
    SELECT EXISTS (
        SELECT 1 FROM stripe_links JOIN stripe_objects USING (object_id)
        WHERE anchor_id = :payment_intent_id AND kind IN ('checkout.session', 'invoice_payment'))
""")
_ANCHORS = sa.text("SELECT DISTINCT anchor_id FROM stripe_links WHERE object_id = ANY(CAST(:ids AS text[]))")


def save(connection: Connection, links: Mapping[str, Collection[str]]) -> Answer[Result]:
    """Keep the anchors of objects (object id -> anchor ids); links only grow."""
    pairs = sorted((object_id, anchor) for object_id, found in links.items() for anchor in found)
    values = {"objects": [pair[0] for pair in pairs], "anchors": [pair[1] for pair in pairs]}
    return connection.send(_SAVE, values)


def related(connection: Connection, anchor_ids: Collection[str]) -> Answer[Related]:
    """Give what hangs together with these anchors."""
    return connection.ask(_RELATED, {"ids": sorted(anchor_ids)}, _related)


async def is_tied(connection: Connection, payment_intent_id: str) -> bool:
    """Say whether it is known to which session or invoice a payment belongs."""
    return bool(await connection.scalar(_IS_TIED, {"payment_intent_id": payment_intent_id}))


async def anchors_of(connection: Connection, object_ids: Collection[str]) -> set[str]:
    """Give the anchors of objects."""
    return {row.anchor_id for row in await connection.execute(_ANCHORS, {"ids": sorted(object_ids)})}


def _related(result: Result) -> Related:
    return Related(
        anchors=frozenset(row.anchor_id for row in result),
        stripe_customer_ids=frozenset(row.stripe_customer_id for row in result if row.stripe_customer_id is not None),
    )
