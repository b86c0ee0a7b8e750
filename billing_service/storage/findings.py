"""What a person should look at: bought twice, a binding contradicted, and the like. One row per kind and subject."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection


class FindingKind(StrEnum):
    """What was found."""

    BOUGHT_TWICE = "bought_twice"
    BINDING_CONTRADICTED = "binding_contradicted"
    DRIFT = "drift"  # what we held gave something else than what Stripe holds, and no event said why; repaired
    DENIED_BY_STRIPE = "denied_by_stripe"
    FINALIZATION_FAILED = "finalization_failed"  # Stripe could not finalise an invoice: nobody will be asked to pay it


@dataclass(frozen=True)
class Finding:
    """One finding; closed where `close_time` is set, until something else is found about the same subject."""

    kind: FindingKind
    subject: str
    customer_id: str | None
    detail: Mapping[str, Any]  # ids, never personal data
    create_time: datetime
    update_time: datetime
    close_time: datetime | None


_NOTE = sa.text("""
    INSERT INTO findings (kind, subject, customer_id, detail)
    VALUES (:kind, :subject, :customer_id, CAST(:detail AS jsonb))
    ON CONFLICT (kind, subject) DO UPDATE SET detail = excluded.detail, update_time = now(), close_time = NULL
    WHERE findings.detail <> excluded.detail
""")
_CLOSE = sa.text("""
    UPDATE findings SET close_time = now()
    WHERE kind = :kind AND subject = ANY(CAST(:subjects AS text[])) AND close_time IS NULL
""")
_LIST = sa.text("""
    SELECT kind, subject, customer_id, detail::text AS detail, create_time, update_time, close_time FROM findings
    WHERE close_time IS NULL OR :closed
    ORDER BY update_time DESC, kind, subject LIMIT :most
""")
_FIND = sa.text("""
    SELECT kind, subject, customer_id, detail::text AS detail, create_time, update_time, close_time FROM findings
    WHERE kind = :kind AND subject = :subject
""")
_PAGE = sa.text("""
    SELECT kind, subject, customer_id, detail::text AS detail, create_time, update_time, close_time FROM findings
    WHERE (close_time IS NULL OR :closed) AND (CAST(:kind AS text) IS NULL OR kind = :kind)
      AND (CAST(:customer_id AS text) IS NULL OR customer_id = :customer_id)
      AND (CAST(:before AS timestamptz) IS NULL
           OR (update_time, kind, subject) < (:before, CAST(:before_kind AS text), CAST(:before_subject AS text) COLLATE "C"))
    ORDER BY update_time DESC, kind DESC, subject DESC LIMIT :most
""")


@dataclass(frozen=True)
class Place:
    """Where a finding stands in a list: by when it was last found, then by what names it."""

    update_time: datetime
    kind: FindingKind
    subject: str


def note(
    connection: Connection, kind: FindingKind, subject: str, customer_id: str | None, detail: Mapping[str, Any]
) -> Answer[Result]:
    """Note a finding; the same again changes nothing, also where somebody closed it. `detail` holds ids, never personal data."""
    body = msgspec.json.encode(detail).decode()
    values = {"kind": kind.value, "subject": subject, "customer_id": customer_id, "detail": body}
    return connection.send(_NOTE, values)


async def close(connection: Connection, kind: FindingKind, subjects: Collection[str]) -> int:
    """Close findings that are open; say how many were."""
    result = await connection.execute(_CLOSE, {"kind": kind.value, "subjects": sorted(subjects)})
    return result.rowcount


async def newest(connection: Connection, most: int, *, closed: bool) -> Sequence[Finding]:
    """Give what was found last; the open ones, or with those that were closed."""
    return [_finding(row) for row in await connection.execute(_LIST, {"closed": closed, "most": most})]


async def find(connection: Connection, kind: FindingKind, subject: str) -> Finding | None:
    """Give one finding, or None."""
    row = (await connection.execute(_FIND, {"kind": kind.value, "subject": subject})).one_or_none()
    return None if row is None else _finding(row)


async def page(
    connection: Connection,
    kind: FindingKind | None,
    customer_id: str | None,
    before: Place | None,
    most: int,
    *,
    closed: bool,
) -> Sequence[Finding]:
    """Give the next findings after a place, the last found first."""
    values = {
        "kind": None if kind is None else kind.value,
        "customer_id": customer_id,
        "closed": closed,
        "before": None if before is None else before.update_time,
        "before_kind": None if before is None else before.kind.value,
        "before_subject": None if before is None else before.subject,
        "most": most,
    }
    return [_finding(row) for row in await connection.execute(_PAGE, values)]


def _finding(row: sa.Row[Any]) -> Finding:
    return Finding(
        FindingKind(row.kind),
        row.subject,
        row.customer_id,
        msgspec.json.decode(row.detail),
        row.create_time,
        row.update_time,
        row.close_time,
    )
