"""`billing findings …`: what a person should look at."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer
from billing.admin.v1 import finding_pb2
from rich.text import Text

from billing_cli import screen
from billing_cli.connection import Service
from billing_cli.finding_screen import findings_table
from billing_cli.options import Actor, AsJson, Because, Limit, RequestId, more

app: Final = typer.Typer(
    no_args_is_help=True, help="What a person should look at; docs/repair.md says what to do about each kind."
)


class Kind(StrEnum):
    """What was found."""

    BOUGHT_TWICE = "bought_twice"
    BINDING_CONTRADICTED = "binding_contradicted"
    DRIFT = "drift"
    DENIED_BY_STRIPE = "denied_by_stripe"
    FINALIZATION_FAILED = "finalization_failed"

    @property
    def number(self) -> finding_pb2.Finding.Kind.ValueType:
        """Give the contract's value."""
        return finding_pb2.Finding.Kind.Value(f"KIND_{self.name}")


@app.command("list")
def list_findings(
    context: typer.Context,
    kind: Annotated[Kind | None, typer.Option(help="Only of this kind.")] = None,
    customer: Annotated[str | None, typer.Option(metavar="CUSTOMER", help="Only about this customer.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Those that are closed too.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List findings, the last found first."""
    service: Service = context.obj
    request = finding_pb2.ListFindingsRequest(
        kind=kind.number if kind else finding_pb2.Finding.KIND_UNSPECIFIED, customer_id=customer, include_closed=every
    )
    findings, is_more = service.pages(service.admin.ListFindings, request, lambda answer: answer.findings, limit)
    if as_json:
        screen.write(findings)
    else:
        screen.show(findings_table(findings, datetime.now(UTC)) or Text("Nothing waits for a person.", style="green"))
    more(limit, is_more=is_more)


@app.command()
def close(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(show_default=False)],
    subject: Annotated[str, typer.Argument(help="What it is about, as the list has it.", show_default=False)],
    because: Because,
    actor: Actor,
    request_id: RequestId,
    as_json: AsJson = False,
) -> None:
    """Close a finding: it was dealt with. It comes back when something new is found about the same subject."""
    service: Service = context.obj
    request = finding_pb2.CloseFindingRequest(
        request_id=request_id, actor=actor, reason=because, kind=kind.number, subject=subject
    )
    answer = service.change(service.admin.CloseFinding, request)
    if as_json:
        screen.write([answer.finding])
    else:
        screen.report(f"The finding {kind} about {subject} is closed.")
