"""The program `billing`: the options of the connection, the commands, and what becomes of an error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from billing_client import BillingError
from typer.core import TyperGroup

from billing_cli import audit, checkouts, customers, events, findings, grants, quarantine, runs, screen
from billing_cli.connection import OPS, TARGET, TIMEOUT_S, Connection, Service
from billing_cli.failures import Exit, UnreachableError, UsageError, exit_code, explain
from billing_cli.reconcile import reconcile
from billing_cli.status import status

_CONNECTION: Final = "Connection"


class Program(TyperGroup):
    """The outermost command: what a command raises becomes sentences and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BillingError as error:
            for sentence in explain(error, ctx.obj.connection.target):
                screen.say(sentence)
            raise typer.Exit(exit_code(error)) from None
        except UnreachableError as error:
            screen.say(str(error))
            raise typer.Exit(Exit.UNAVAILABLE) from None
        except UsageError as error:
            screen.say(str(error))
            raise typer.Exit(Exit.USAGE) from None
        except KeyboardInterrupt:
            screen.say("Stopped.")
            raise typer.Exit(Exit.STOPPED) from None


app: Final = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,  # a defect is for a bug report; its locals may hold a token
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("status")(status)
app.add_typer(customers.app, name="customer")
app.add_typer(checkouts.app, name="checkout")
app.add_typer(events.app, name="events")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(grants.app, name="grants")
app.add_typer(findings.app, name="findings")
app.command("reconcile")(reconcile)
app.add_typer(runs.app, name="runs")
app.add_typer(audit.app, name="audit")


@app.callback()
def connection(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Option(
            envvar="BILLING_ADMIN_TARGET", help="The service's internal listener.", rich_help_panel=_CONNECTION
        ),
    ] = TARGET,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="BILLING_ADMIN_TOKEN_FILE",
            help="A file with a token of the role admin.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="BILLING_ADMIN_CA", help="The authority of the service's certificate.", rich_help_panel=_CONNECTION
        ),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(envvar="BILLING_ADMIN_CERT", help="Your own certificate.", rich_help_panel=_CONNECTION),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(envvar="BILLING_ADMIN_KEY", help="Its key.", rich_help_panel=_CONNECTION)
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(
            envvar="BILLING_ADMIN_SERVER_NAME",
            help="The name in the service's certificate, where it is reached by another.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None,
    ops: Annotated[
        str,
        typer.Option(
            envvar="BILLING_ADMIN_OPS", help="The service's health page, for status.", rich_help_panel=_CONNECTION
        ),
    ] = OPS,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds for one call.", rich_help_panel=_CONNECTION)
    ] = TIMEOUT_S,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text to another machine.", rich_help_panel=_CONNECTION)
    ] = False,
) -> None:
    """Look after the billing service: customers, events, grants, repair.

    Reports go to standard output, everything else to standard error. Exit codes: 0 done, 1 refused or not all of it done,
    2 usage, 3 not found, 4 not allowed, 5 unavailable, 6 not confirmed, 130 stopped.
    """
    context.obj = Service(Connection(target, token_file, ca, cert, key, server_name, ops, timeout, insecure))
    context.call_on_close(context.obj.close)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    app(args=arguments, prog_name="billing")
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
