"""How findings are shown, wherever they stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from billing.admin.v1.finding_pb2 import Finding
from google.protobuf.json_format import MessageToDict
from rich.console import RenderableType
from rich.text import Text

from billing_cli import screen


def findings_table(findings: Sequence[Finding], now: datetime) -> RenderableType | None:
    """Give findings as a table; None where there is none."""
    rows = [_row(one, now) for one in findings]
    return (
        screen.table("kind", "subject", "customer", "last found", "what is known", rows=rows, keep=["kind"])
        if rows
        else None
    )


def _row(one: Finding, now: datetime) -> tuple[RenderableType, ...]:
    kind = Finding.Kind.Name(one.kind).removeprefix("KIND_").lower()
    closed = one.HasField("close_time")
    found = screen.age(one.update_time, now) + (f"\nclosed {screen.age(one.close_time, now)}" if closed else "")
    detail = ", ".join(f"{name}: {_value(value)}" for name, value in sorted(MessageToDict(one.detail).items()))
    return Text(kind, style="dim" if closed else "bold yellow"), one.subject, one.customer_id or "–", found, detail


def _value(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
