"""`billing reconcile`: bring in what was missed, from Stripe, with how far it has come; goes on where it was stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Final, Protocol

import typer
from billing.admin.v1.reconcile_pb2 import ReconcileRequest, ReconcileRun
from billing_client import UnavailableError
from google.protobuf.timestamp_pb2 import Timestamp
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.failures import Exit, UsageError
from billing_cli.options import Actor, AsJson, Moment, RequestId, moment
from billing_cli.replaying import Because
from billing_cli.runs import runs_table, scope_word, state_word

LINE_EVERY_S: Final = 5.0  # where there is no terminal; a log is not to fill
GOES_ON: Final = "The same command goes on where it was."

Since = Annotated[
    Moment | None, typer.Option(parser=moment, metavar="TIME", help="Events since a time, or a span: 4d, 12h.")
]
Scope = ReconcileRun.Scope


class Told(Protocol):
    """What is told of each message of the stream."""

    def __call__(self, run: ReconcileRun, *, ended: bool) -> None:
        """Hear how far a run is."""


def reconcile(
    context: typer.Context,
    actor: Actor,
    request_id: RequestId,
    since: Since = None,
    customer: Annotated[str | None, typer.Option(metavar="CUSTOMER", help="Everything of one customer.")] = None,
    subscriptions: Annotated[
        bool, typer.Option("--subscriptions", help="Every subscription, ours and Stripe's.")
    ] = False,
    purchases: Annotated[bool, typer.Option("--purchases", help="Every purchase, with refunds and disputes.")] = False,
    everything: Annotated[
        bool, typer.Option("--everything", help="30 days of events, subscriptions and purchases.")
    ] = False,
    because: Because = "billing reconcile",
    as_json: AsJson = False,
) -> None:
    """Compare with Stripe and bring in what was missed; events since the last time, or what an option says.

    Ctrl-C stops it, and the same command goes on where it was. Exits with 0 only where every run is complete.
    """
    scopes = {
        Scope.SCOPE_CUSTOMER: customer is not None,
        Scope.SCOPE_SUBSCRIPTIONS: subscriptions,
        Scope.SCOPE_PURCHASES: purchases,
        Scope.SCOPE_EVERYTHING: everything,
        Scope.SCOPE_EVENTS: since is not None,
    }
    chosen = [scope for scope, is_chosen in scopes.items() if is_chosen] or [Scope.SCOPE_EVENTS]
    if len(chosen) > 1:
        raise UsageError("Only one of --since, --customer, --subscriptions, --purchases and --everything at a time.")
    request = ReconcileRequest(
        request_id=request_id,
        actor=actor,
        reason=because,
        scope=chosen[0],
        customer_id=customer,
        since_time=since.before(datetime.now(UTC)) if since else None,
    )
    runs = _followed(context.obj, request)
    if as_json:
        screen.write(runs)
    else:
        screen.show(runs_table(runs, datetime.now(UTC)))
    if any(run.state != ReconcileRun.STATE_COMPLETE for run in runs) or not runs:
        raise typer.Exit(Exit.FAILED)


def _followed(service: Service, request: ReconcileRequest) -> list[ReconcileRun]:
    """Follow the runs to their end, and give them.

    Raises:
        typer.Exit: it was stopped by Ctrl-C or SIGTERM.
    """
    ended = []
    with _stoppable(), _progress() as tell:
        try:
            for message in service.stream(service.admin.Reconcile, request):
                tell(message.run, ended=message.ended)
                if message.ended:
                    ended.append(message.run)
        except KeyboardInterrupt:
            screen.say(f"Stopped. {GOES_ON}")
            raise typer.Exit(Exit.STOPPED) from None
        except UnavailableError as error:
            error.add_note(GOES_ON)
            raise
    return ended


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM stop it as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress() -> Iterator[Told]:
    """Give what shows how far it is: a bar for each run on a terminal, a line now and then elsewhere."""
    console = screen.console(errors=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield _Bars(progress)


class _Bars:
    """A bar for each run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, TaskID] = {}

    def __call__(self, run: ReconcileRun, *, ended: bool) -> None:
        if run.run_id not in self._tasks:
            self._tasks[run.run_id] = self._progress.add_task(scope_word(run), total=None, counts="")
        share = 1.0 if ended and run.state == ReconcileRun.STATE_COMPLETE else _share(run)
        self._progress.update(
            self._tasks[run.run_id],
            total=None if share is None else 1.0,
            completed=share or 0.0,
            counts=_counts(run),
        )
        if ended:
            self._progress.stop_task(self._tasks[run.run_id])


class _Lines:
    """A line at the beginning and the end of each run, and now and then between."""

    def __init__(self) -> None:
        self._said: tuple[int, float] = (0, 0.0)

    def __call__(self, run: ReconcileRun, *, ended: bool) -> None:
        run_id, at = self._said
        if not ended and run_id == run.run_id and time.monotonic() - at < LINE_EVERY_S:
            return
        self._said = run.run_id, time.monotonic()
        share = _share(run)
        done = f"{share:.0%}, " if share is not None and not ended else ""
        screen.say(f"{scope_word(run)}: {state_word(run) if ended else 'under way'}, {done}{_counts(run)}")


def _share(run: ReconcileRun) -> float | None:
    """Say how far a run over events is; of objects nobody knows how many there are."""
    span = _seconds(run.end_time) - _seconds(run.start_time)
    if run.scope != ReconcileRun.SCOPE_EVENTS or span <= 0:
        return None
    return min(max((_seconds(run.done_until_time) - _seconds(run.start_time)) / span, 0.0), 1.0)


def _seconds(at: Timestamp) -> float:
    return at.seconds + at.nanos / 1e9


def _counts(run: ReconcileRun) -> str:
    trouble = "".join(f", {name} {count}" for name, count in (("failed", run.failed), ("denied", run.denied)) if count)
    return f"found {run.found}, repaired {run.repaired}, drift {run.drift}{trouble}"
