"""Taking events in quarantine in again: one, or all of a reason, page by page."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Final

import typer
from billing.admin.v1.event_pb2 import QuarantinedEvent, ReplayEventsRequest, ReplayEventsResponse

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.failures import Exit

PAGE_SIZE: Final = 500
MAX_PAGES: Final = 10_000  # of one command: five million events

Because = Annotated[
    str, typer.Option("--because", metavar="TEXT", help="Why; kept with it.", rich_help_panel="For the record")
]

_COUNTS: Final = ("replayed", "applied", "parked", "duplicate", "ignored", "not_ours", "failed")


def replay_one(service: Service, event_key: str, *, actor: str, because: str, request_id: str, as_json: bool) -> None:
    """Replay one event and report.

    Raises:
        BillingError: it is not in quarantine, for one.
        typer.Exit: it failed again.
    """
    request = ReplayEventsRequest(request_id=request_id, actor=actor, reason=because, event_key=event_key)
    _report(_counted(service.change(service.admin.ReplayEvents, request)), as_json=as_json)


def replay_reason(
    service: Service,
    reason: QuarantinedEvent.Reason.ValueType,
    *,
    actor: str,
    because: str,
    request_id: str,
    as_json: bool,
) -> None:
    """Replay all events of a reason and report.

    Raises:
        BillingError: a page was refused, or nobody answered.
        typer.Exit: some failed again.
    """
    total, token = Counter[str](), ""
    for page in range(MAX_PAGES):
        request = ReplayEventsRequest(
            request_id=f"{request_id}-{page}" if page else request_id,
            actor=actor,
            reason=because,
            quarantine_reason=reason,
            page_size=PAGE_SIZE,
            page_token=token,
        )
        answer = service.change(service.admin.ReplayEvents, request)
        total += _counted(answer)
        if not (token := answer.next_page_token):
            break
        screen.say(f"replayed {total['replayed']}, of which {total['failed']} failed again")
    _report(total, as_json=as_json)


def _counted(answer: ReplayEventsResponse) -> Counter[str]:
    return Counter({name: int(getattr(answer, name)) for name in _COUNTS})


def _report(total: Counter[str], *, as_json: bool) -> None:
    if as_json:
        screen.write_object({name: total[name] for name in _COUNTS})
    else:
        became = ", ".join(f"{total[name]} {name.replace('_', ' ')}" for name in _COUNTS[1:] if total[name])
        screen.report(f"Replayed {total['replayed']}: {became or 'there was nothing to do'}.")
    if total["failed"]:
        screen.say("What failed again stays in quarantine: `billing quarantine list` says why.")
        raise typer.Exit(Exit.FAILED)
