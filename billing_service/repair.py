"""The commands of an operator who repairs: reconcile, replay, quarantine and findings. Progress on standard error, reports on
standard output; 0 only where all of it was done and nothing failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from billing_service.clock import clock_of
from billing_service.domain.catalog import Catalog
from billing_service.domain.errors import BillingError
from billing_service.domain.operator import Order
from billing_service.flows.close_finding import CloseFinding
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.reconcile import Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.replay import Replay, Replayed
from billing_service.flows.request_budget import Budget, RequestBudget
from billing_service.rpc import field_rules
from billing_service.settings import DatabaseSettings, RepairSettings
from billing_service.storage import findings, quarantine
from billing_service.storage.database import Database
from billing_service.storage.findings import FindingKind
from billing_service.storage.quarantine import Reason
from billing_service.storage.reconcile_runs import Run, RunState
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError

LISTED: Final = 100  # lines of a list
STRIPE_KEEPS: Final = timedelta(days=30)

_UNITS: Final[Mapping[str, str]] = {"d": "days", "h": "hours", "m": "minutes"}


def add_commands(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    reconcile = commands.add_parser(
        "reconcile", help="bring in what was missed, from Stripe; goes on where it was stopped"
    )
    what = reconcile.add_mutually_exclusive_group()
    what.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="events since a time (2026-11-01, 2026-11-01T08:00Z) or span (4d, 12h)",
    )
    what.add_argument("--customer", metavar="ID", help="everything of one customer, by your own id")
    what.add_argument("--subscriptions", action="store_true", help="every subscription, ours and Stripe's")
    what.add_argument("--purchases", action="store_true", help="every purchase, with refunds and disputes")
    what.add_argument("--everything", action="store_true", help="30 days of events, subscriptions and purchases")
    replay = commands.add_parser("replay", help="take quarantined events in again, after their cause was mended")
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument("--event", metavar="KEY", help="one, by its key")
    which.add_argument("--reason", choices=[reason.value for reason in Reason], help="all of one reason")
    which.add_argument("--all", action="store_true", help="all")
    which.add_argument("--ignored", action="store_true", help="recorded ones whose type was not used then, and is now")
    listed = commands.add_parser("quarantine", help="list quarantined events; changes nothing")
    listed.add_argument("--reason", choices=[reason.value for reason in Reason], help="only of one reason")
    found = commands.add_parser("findings", help="list what a person should look at, or close one")
    found.add_argument("--all", action="store_true", help="with those that are closed")
    found.add_argument("--close", nargs=2, metavar=("KIND", "SUBJECT"), help="close one: it was dealt with")
    found.add_argument("--actor", metavar="NAME", default="", help="who closes it, for the record; needed with --close")
    found.add_argument("--because", metavar="TEXT", default="", help="why, for the record; needed with --close")
    for parser in (reconcile, replay, listed, found):
        parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(arguments: argparse.Namespace, settings: DatabaseSettings, catalog: Catalog | None) -> int:
    """Run one command and give the exit code. Settings and catalog are whole where Stripe or events are involved."""
    work: Mapping[str, Callable[[], Coroutine[Any, Any, bool]]] = {
        "reconcile": lambda: _reconcile(arguments, _whole(settings), catalog),
        "replay": lambda: _replay(arguments, _whole(settings), catalog),
        "quarantine": lambda: _quarantine(arguments, settings),
        "findings": lambda: _findings(arguments, settings),
    }
    command = arguments.command
    try:
        return 0 if asyncio.run(_until_signal(work[command]())) else 1
    except asyncio.CancelledError:
        sys.stderr.write(f"billing-service {command} was stopped. The same command goes on where it was.\n")
    except BillingError as error:
        sys.stderr.write(f"billing-service {command} was broken off: {error.message}\n")
    except StripeCallError as error:
        sys.stderr.write(f"billing-service {command} was broken off: {error}. The same command goes on where it was.\n")
    return 1


async def _until_signal(work: Coroutine[Any, Any, bool]) -> bool:
    """Do the work; SIGTERM and SIGINT cancel it, and it records how far it came."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    return await task


@dataclass(frozen=True)
class _Flows:
    """What the commands do their work with."""

    events: Reconcile
    objects: ReconcileObjects
    replay: Replay


@asynccontextmanager
async def _flows(settings: RepairSettings, catalog: Catalog | None) -> AsyncIterator[_Flows]:
    if catalog is None:
        raise LookupError("this command needs the catalog")
    now = clock_of(settings.sandbox_clock)
    database = Database(settings.database_url.get_secret_value())
    budget = RequestBudget(database, Budget(settings.stripe_background_rate))
    async with StripeApi(settings.stripe_api_key.get_secret_value(), settings.stripe_api_base) as stripe:
        prices = Prices(database, stripe, catalog)
        fulfill = Fulfill(database, prices, settings.deployment, now)
        reads = Reads(database, stripe, prices, settings.deployment, now)
        writer = asyncio.create_task(fulfill.run())
        try:
            await prices.refresh()
            yield _Flows(
                Reconcile(database, stripe.listing, fulfill.backlog, budget, now),
                ReconcileObjects(database, stripe.listing, reads, budget, settings.deployment, now),
                Replay(database, fulfill.backlog),
            )
        finally:
            await fulfill.close()
            await writer
            await database.close()


async def _reconcile(arguments: argparse.Namespace, settings: RepairSettings, catalog: Catalog | None) -> bool:
    async with _flows(settings, catalog) as flows:
        tell = _told
        now = clock_of(settings.sandbox_clock)()
        since = _unix(arguments.since, now) if arguments.since else None
        month = _unix(STRIPE_KEEPS, now)
        chosen: list[Callable[[], Awaitable[Run]]] = [lambda: flows.events.events(since, tell)]
        if arguments.customer:
            chosen = [lambda: flows.objects.customer(arguments.customer, tell)]
        elif arguments.subscriptions:
            chosen = [lambda: flows.objects.subscriptions(tell)]
        elif arguments.purchases:
            chosen = [lambda: flows.objects.purchases(tell)]
        elif arguments.everything:
            events = lambda: flows.events.events(month, tell)  # noqa: E731 - one of three alike
            chosen = [events, lambda: flows.objects.subscriptions(tell), lambda: flows.objects.purchases(tell)]
        runs = [await one() for one in chosen]
    _report([_run(one) for one in runs], as_json=arguments.json)
    return all(one.state is RunState.COMPLETE for one in runs)


async def _replay(arguments: argparse.Namespace, settings: RepairSettings, catalog: Catalog | None) -> bool:
    async with _flows(settings, catalog) as flows:
        if arguments.event:
            replayed = await flows.replay.event(arguments.event)
            if not replayed.count:
                sys.stderr.write(f"No event {arguments.event!r} is in quarantine.\n")
                return False
        elif arguments.ignored:
            replayed = await flows.replay.ignored(_told_replayed)
        else:
            reasons = [Reason(arguments.reason)] if arguments.reason else list(Reason)
            replayed = await flows.replay.reasons(reasons, _told_replayed)
    counts = {outcome.value: count for outcome, count in sorted(replayed.outcomes.items())}
    _report([{"replayed": replayed.count} | counts], as_json=arguments.json)
    return replayed.failed == 0


async def _quarantine(arguments: argparse.Namespace, settings: DatabaseSettings) -> bool:
    reasons = [Reason(arguments.reason)] if arguments.reason else list(Reason)
    database = Database(settings.database_url.get_secret_value())
    try:
        counts = await database.run(quarantine.counts)
        newest = await database.run(lambda c: quarantine.newest(c, reasons, LISTED))
    finally:
        await database.close()
    _report([asdict(one) for one in newest], as_json=arguments.json)
    total = ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "nothing"
    sys.stderr.write(f"In quarantine: {total}; the newest {LISTED} are shown.\n")
    return True


async def _findings(arguments: argparse.Namespace, settings: DatabaseSettings) -> bool:
    database = Database(settings.database_url.get_secret_value())
    try:
        if arguments.close:
            said = await _close(arguments, database)
            sys.stderr.write(f"{said or 'Closed.'}\n")
            return said is None
        newest = await database.run(lambda c: findings.newest(c, LISTED, closed=arguments.all))
    finally:
        await database.close()
    _report([asdict(one) for one in newest], as_json=arguments.json)
    return True


async def _close(arguments: argparse.Namespace, database: Database) -> str | None:
    """Close a finding, with who did and why beside it as the operators' service keeps them; say what stands in the way."""
    kind, subject = arguments.close
    if kind not in {one.value for one in FindingKind}:
        return f"KIND is one of {', '.join(one.value for one in FindingKind)}."
    for name, problem in (
        ("--actor", field_rules.actor_problem(arguments.actor)),
        ("--because", field_rules.reason_problem(arguments.because)),
    ):
        if problem is not None:
            return f"{name} {problem}."
    found = await database.run(lambda c: findings.find(c, FindingKind(kind), subject))
    if found is None or found.close_time is not None:
        return "No open finding is of that kind and subject."
    order = Order(str(uuid4()), arguments.actor, arguments.because)
    await CloseFinding(database)(order, FindingKind(kind), subject)
    return None


def _run(run: Run) -> dict[str, Any]:
    counts = {name: getattr(run, name) for name in ("found", "repaired", "failed", "drift", "denied")}
    return {"scope": run.scope.value, "state": run.state.value, "run_id": run.run_id} | counts


def _told(run: Run) -> None:
    """Say how far a run has come: of events by time, of objects by the id."""
    span = run.until - run.since
    done = f"{100 * (run.done_until - run.since) // span} %" if run.since and span else run.position
    sys.stderr.write(
        f"{run.scope}: {done} found {run.found}, repaired {run.repaired}, failed {run.failed}, drift {run.drift}\n"
    )


def _told_replayed(replayed: Replayed) -> None:
    sys.stderr.write(f"replayed {replayed.count}, of which {replayed.failed} failed again\n")


def _report(rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Write one line per row: JSON, or name=value."""
    for row in rows:
        text = json.dumps(row, default=str) if as_json else "  ".join(f"{key}={_shown(row[key])}" for key in row)
        sys.stdout.write(f"{text}\n")


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _moment(text: str) -> datetime | timedelta:
    """Understand a time, or a span before now.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if span := re.fullmatch(r"(\d{1,4})([dhm])", text):
        return timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a time, as 2026-11-01T08:00Z, or a span, as 4d or 12h") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _unix(moment: datetime | timedelta, now: datetime) -> int:
    return int((now - moment if isinstance(moment, timedelta) else moment).timestamp())


def _whole(settings: DatabaseSettings) -> RepairSettings:
    if not isinstance(settings, RepairSettings):
        raise TypeError("this command needs more than the database")
    return settings
