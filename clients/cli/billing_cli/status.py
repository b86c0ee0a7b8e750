"""`billing status`: how the service is, from its health page: ready or why not, and the numbers that an alert would speak of."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.failures import Exit, UnreachableError
from billing_cli.options import AsJson

MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
LATE_S: Final = 900  # three of the service's own walks through Stripe's events

_SAMPLE: Final = re.compile(r"^(billing_[a-z_]+)(?:\{(?:[a-z_]+=\"([^\"]*)\")?\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Status:
    """What the page says."""

    ready: bool
    checks: Mapping[str, str]  # what was looked at: "ok" or the reason
    warnings: list[str]
    quarantined_events: Mapping[str, int]  # by reason
    open_findings: Mapping[str, int]  # by kind
    rereads: int  # objects to be read again from Stripe
    reread_overdue_s: float  # for how long the oldest of them is due
    drift: int  # differences without an event, by all reconciliations so far
    reconciled_until: str | None  # up to where Stripe's events were compared; None: never yet
    waiting_events: Mapping[str, int] = field(default_factory=dict)  # in front of the writers, by lane


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Is the service ready, and is anything waiting for a person? Asks the health page (--ops). Exits with 1 where it is not ready."""
    service: Service = context.obj
    host = service.connection.ops
    found = _status(json.loads(_get(host, "/readyz")), _get(host, "/metrics"))
    if as_json:
        screen.write_object(asdict(found))
    else:
        screen.show(_shown(found, datetime.now(UTC)))
    if not found.ready:
        raise typer.Exit(Exit.FAILED)


def _get(host: str, path: str) -> str:
    """Ask the page; 503 is an answer too.

    Raises:
        UnreachableError: nobody answers there, or something else does.
    """
    try:
        connection = http.client.HTTPConnection(host, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(MAX_PAGE_BYTES).decode()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"No health page answers at {host} (--ops, BILLING_ADMIN_OPS): {error}") from None
    if response.status not in {200, 503}:
        raise UnreachableError(
            f"What answers at {host} is not the health page of the service: {path} is {response.status}"
        )
    return body


def _status(readyz: Mapping[str, Any], metrics: str) -> Status:
    samples = [(name, label, float(number)) for name, label, number in _SAMPLE.findall(metrics)]
    single = {name: number for name, label, number in samples if not label}

    def by_label(wanted: str) -> dict[str, int]:
        return {label: int(number) for name, label, number in samples if name == wanted and label}

    until = single.get("billing_reconciled_until_timestamp_seconds", 0.0)
    return Status(
        ready=bool(readyz["ready"]),
        checks=dict(readyz["checks"]),
        warnings=list(readyz["warnings"]),
        quarantined_events=by_label("billing_quarantined_events"),
        open_findings=by_label("billing_open_findings"),
        rereads=int(single.get("billing_rereads", 0)),
        reread_overdue_s=single.get("billing_reread_overdue_seconds", 0.0),
        drift=int(single.get("billing_drift", 0)),
        reconciled_until=datetime.fromtimestamp(until, UTC).isoformat().replace("+00:00", "Z") if until else None,
        waiting_events=by_label("billing_waiting_events"),
    )


def _shown(found: Status, now: datetime) -> RenderableType:
    state = Text("ready", style="bold green") if found.ready else Text("NOT READY", style="bold red")
    return Group(
        Text("The service is ").append(state),
        *(Text(screen.plain(f"! {warning}"), style="yellow") for warning in found.warnings),
        Text(),
        screen.table("", "is", "what it means", rows=_rows(found, now), keep=[""]),
    )


def _rows(found: Status, now: datetime) -> Iterator[tuple[str | Text, ...]]:
    for name, answer in found.checks.items():
        yield name, _mark(answer, wrong=answer != "ok"), ""
    yield "quarantine", _counts(found.quarantined_events), "events put aside: billing quarantine list"
    yield "findings", _counts(found.open_findings), "what a person should look at: billing findings list"
    overdue = f", the oldest due for {timedelta(seconds=int(found.reread_overdue_s))}" if found.reread_overdue_s else ""
    yield (
        "re-reads",
        _mark(f"{found.rereads}{overdue}", wrong=found.reread_overdue_s > LATE_S),
        "objects to ask Stripe for",
    )
    yield "drift", str(found.drift), "differences that no event told, all reconciliations so far"
    yield "reconciled", _reconciled(found.reconciled_until, now), "up to where Stripe's events were compared with ours"
    yield "waiting", _counts(found.waiting_events, wrong=False), "events in front of the writers"


def _mark(text: str, *, wrong: bool) -> Text:
    return Text(screen.plain(text), style="bold red" if wrong else "green")


def _counts(counts: Mapping[str, int], *, wrong: bool = True) -> Text:
    there = {label: number for label, number in counts.items() if number}
    text = ", ".join(f"{number} {label.replace('_', ' ')}" for label, number in sorted(there.items())) or "none"
    return _mark(text, wrong=wrong and bool(there))


def _reconciled(until: str | None, now: datetime) -> Text:
    if until is None:
        return _mark("never yet", wrong=True)
    at = datetime.fromisoformat(until)
    return _mark(f"{at:%Y-%m-%d %H:%M:%S}Z ({screen.distance(at - now)})", wrong=now - at > timedelta(seconds=LATE_S))
