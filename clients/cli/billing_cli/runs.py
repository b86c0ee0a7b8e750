"""`billing runs …`: how the reconciliations ended, those too that the service makes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import typer
from billing.admin.v1.reconcile_pb2 import ListReconcileRunsRequest, ReconcileRun
from rich.console import RenderableType
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.options import AsJson, Limit, more

app: Final = typer.Typer(no_args_is_help=True, help="How the reconciliations ended, those of the service itself too.")


@app.callback()
def runs() -> None:
    """How the reconciliations ended, those of the service itself too."""


@app.command("list")
def list_runs(context: typer.Context, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List runs, the newest first."""
    service: Service = context.obj
    found, is_more = service.pages(
        service.admin.ListReconcileRuns, ListReconcileRunsRequest(), lambda answer: answer.runs, limit
    )
    if as_json:
        screen.write(found)
    else:
        screen.show(runs_table(found, datetime.now(UTC)) if found else Text("There was none yet."))
    more(limit, is_more=is_more)


def runs_table(found: Sequence[ReconcileRun], now: datetime) -> RenderableType:
    """Give runs as a table."""

    def row(run: ReconcileRun) -> tuple[RenderableType, ...]:
        counts = (run.found, run.repaired, run.failed, run.drift, run.denied)
        begun = (screen.age(run.create_time, now),) if is_recorded else ()
        return (str(run.run_id), scope_word(run), _state(run), *map(str, counts), *begun)

    is_recorded = any(run.HasField("create_time") for run in found)  # a run that is told while it goes has no time yet
    columns = (
        "run",
        "what",
        "is",
        "found",
        "repaired",
        "failed",
        "drift",
        "denied",
        *(("begun",) if is_recorded else ()),
    )
    return screen.table(*columns, rows=map(row, found), keep=columns[:-1])


def scope_word(run: ReconcileRun) -> str:
    """Say what a run goes through."""
    return screen.word(ReconcileRun.Scope.Name(run.scope), "SCOPE_")


def state_word(run: ReconcileRun) -> str:
    """Say where a run stands."""
    return screen.word(ReconcileRun.State.Name(run.state), "STATE_")


def _state(run: ReconcileRun) -> Text:
    styles = {ReconcileRun.STATE_COMPLETE: "bold green", ReconcileRun.STATE_RUNNING: "cyan"}
    return Text(state_word(run), style=styles.get(run.state, "bold red"))
