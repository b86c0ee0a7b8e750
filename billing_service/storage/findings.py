"""What a person should look at: bought twice, a binding contradicted, and the like. One row per kind and subject."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from billing_service.storage.database import Connection


class FindingKind(StrEnum):
    """What was found."""

    BOUGHT_TWICE = "bought_twice"
    BINDING_CONTRADICTED = "binding_contradicted"
    DRIFT = "drift"
    DENIED_BY_STRIPE = "denied_by_stripe"
    FINALIZATION_FAILED = "finalization_failed"


_NOTE = sa.text("""
    INSERT INTO findings (kind, subject, customer_id, detail)
    VALUES (:kind, :subject, :customer_id, CAST(:detail AS jsonb))
    ON CONFLICT (kind, subject) DO UPDATE SET detail = excluded.detail, update_time = now()
    WHERE findings.detail <> excluded.detail
""")


async def note(
    connection: Connection, kind: FindingKind, subject: str, customer_id: str | None, detail: Mapping[str, Any]
) -> None:
    """Note a finding; noting the same again changes nothing. `detail` holds ids, never personal data."""
    body = msgspec.json.encode(detail).decode()
    values = {"kind": kind.value, "subject": subject, "customer_id": customer_id, "detail": body}
    await connection.execute(_NOTE, values)
