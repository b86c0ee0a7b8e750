"""How the history of a customer is shown: for each change its cause, and what of the entitlements is not as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from billing.admin.v1.customer_pb2 import EntitlementChange
from billing.v1.entitlement_pb2 import GetEntitlementsResponse, Source
from billing.v1.watch_pb2 import WatchEntitlementsResponse
from rich.console import Group, RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.words import feature_value, source_id


def shown(customer_id: str, changes: Sequence[EntitlementChange], now: datetime) -> RenderableType:
    """Give the changes as a table."""
    if not changes:
        return Text(screen.plain(f"Nothing that {customer_id} may use has ever changed."))
    rows = ((str(one.revision), screen.age(one.change_time, now), _cause(one), _difference(one)) for one in changes)
    return screen.table("rev", "when", "cause", "what changed", rows=rows, keep=["rev"])


def _cause(change: EntitlementChange) -> str:
    name = screen.word(WatchEntitlementsResponse.Cause.Name(change.cause), "CAUSE_")
    return f"{name} {change.cause_id}".strip()


def _difference(change: EntitlementChange) -> RenderableType:
    lines = [*_features(change.before, change.after), *_sources(change.before, change.after)]
    return Group(*lines) if lines else Text("nothing that a caller sees", style="dim")


def _features(before: GetEntitlementsResponse, after: GetEntitlementsResponse) -> Iterator[Text]:
    was = {one.feature_key: feature_value(one.value) for one in before.entitlements}
    now = {one.feature_key: feature_value(one.value) for one in after.entitlements}
    for key in [*now, *(key for key in was if key not in now)]:
        old, new = was.get(key, "not there"), now.get(key, "not there")
        if old != new:
            yield Text(screen.plain(f"{key}: {old} → ")).append(screen.plain(new), style="bold")


def _sources(before: GetEntitlementsResponse, after: GetEntitlementsResponse) -> Iterator[Text]:
    was, now = ({source_id(one): one for one in answer.sources} for answer in (before, after))
    for key in [*now, *(key for key in was if key not in now)]:
        old, new = _state(was.get(key)), _state(now.get(key))
        if old != new:
            yield Text(screen.plain(f"{key}: {old} → {new}"), style="dim")


def _state(source: Source | None) -> str:
    if source is None:
        return "not there"
    plan = f"{source.plan_key} × {source.quantity}" if source.plan_key else ""
    return f"{plan} {screen.word(Source.State.Name(source.state), 'STATE_')}".strip()
