"""The program: `billing-service serve` and `billing-service migrate`. Configured by the environment; see `settings`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Final

import structlog
import uvloop

from billing_service import catalog_commands, garbage, repair, webhook_commands
from billing_service.address import ListenError
from billing_service.catalog_source import read_catalog
from billing_service.deployment_command import EXIT_FAILED
from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_file import CatalogError
from billing_service.domain.errors import BillingError
from billing_service.flows.admit_catalog import PlanVanishedError
from billing_service.logs import configure_logs
from billing_service.program import Addresses, Program
from billing_service.settings import DatabaseSettings, Settings, SettingsError, load_settings
from billing_service.storage.schema import migrate

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1  # what stood in the way while running: a port, the database, a defect
EXIT_USAGE: Final = 2  # arguments, settings or catalog; argparse uses the same
# Commands for a pipeline, in which 2 says that there are differences: what stands in their way is 1, arguments too.
_DEPLOYMENT: Final[Mapping[str, ModuleType]] = {
    catalog_commands.COMMAND: catalog_commands,
    webhook_commands.COMMAND: webhook_commands,
}

_log = structlog.stdlib.get_logger("billing_service")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code: 0 done, 1 something stood in the way, 2 settings or catalog do not hold.

    Those of `catalog` and `webhook-endpoint` are in `deployment_command`.
    """
    parsed = _parsed(sys.argv[1:] if arguments is None else arguments)
    command = parsed.command
    if command in _DEPLOYMENT:
        code: int = _DEPLOYMENT[command].run(parsed)
        return code
    try:
        if command in repair.COMMANDS:
            return _repair(parsed)
        return _serve() if command == "serve" else _migrate()
    except SettingsError as error:
        return _complain(f"billing-service {command} cannot start:\n{error}", EXIT_USAGE)
    except CatalogError as error:
        return _complain(f"billing-service {command} cannot start: {error}", EXIT_USAGE)
    except ListenError as error:
        return _complain(f"billing-service {command} cannot start. {error}", EXIT_FAILURE)


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    try:
        return _parser().parse_args(arguments)
    except SystemExit as end:
        if end.code == EXIT_USAGE and arguments[:1] and arguments[0] in _DEPLOYMENT:
            raise SystemExit(EXIT_FAILED) from None
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="billing-service",
        description="Checkout and entitlements over gRPC. Configured by environment variables, BILLING_...",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="answer calls until SIGTERM or SIGINT, then drain")
    commands.add_parser("migrate", help="bring the database to this program's schema (BILLING_DATABASE_URL)")
    repair.add_commands(commands)
    for module in _DEPLOYMENT.values():
        module.add_command(commands)
    return parser


def _repair(arguments: argparse.Namespace) -> int:
    """Run a command on the same settings as the service; what only lists needs the database alone."""
    if arguments.command in {"quarantine", "findings"}:
        settings, catalog = load_settings(DatabaseSettings), None
    else:
        settings = load_settings(Settings)
        catalog = read_catalog(settings.catalog, "BILLING_CATALOG")
    configure_logs("WARNING")
    return repair.run(arguments, settings, catalog)


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


def _migrate() -> int:
    settings = load_settings(DatabaseSettings)
    configure_logs(settings.log_level)
    try:
        revision = migrate(settings.database_url.get_secret_value())
    except BillingError as error:
        return _complain(f"billing-service migrate did nothing. {error.message}", EXIT_FAILURE)
    _log.info("migrated", revision=revision)
    return EXIT_OK


def _serve() -> int:
    settings = load_settings(Settings)
    catalog = read_catalog(settings.catalog, "BILLING_CATALOG")
    configure_logs(settings.log_level)
    _warn_of_exposure(settings)
    try:
        uvloop.run(_serve_until_signal(settings, catalog))
    except ListenError:
        raise
    except PlanVanishedError as error:
        _log.critical("catalog_refused", plans=error.holders)
        return _complain(f"billing-service serve cannot start: {error}", EXIT_USAGE)
    except Exception as error:  # noqa: BLE001 - the process ends with it: one line for the log, one sentence for the person
        _log.critical("service_failed", exc_info=error)
        return _complain("billing-service serve ended because of a defect; the log line above has it.", EXIT_FAILURE)
    return EXIT_OK


def _warn_of_exposure(settings: Settings) -> None:
    if not settings.grpc_address.is_loopback and settings.access_file is None:
        _log.warning("insecure_listen", address=str(settings.grpc_address), meaning="whoever reaches it may call it")
    for address in (settings.grpc_address, settings.internal_address):
        if not address.is_loopback and settings.tls_certificate is None:
            _log.warning("insecure_listen", address=str(address), meaning="tokens and answers travel unencrypted")


async def _serve_until_signal(settings: Settings, catalog: Catalog) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Program(settings, catalog).serve(stop, _log_addresses)
    _log.info("stopped")


def _log_addresses(addresses: Addresses) -> None:
    garbage.settle()
    _log.info("listening", grpc=str(addresses.grpc), internal=str(addresses.internal), ops=str(addresses.ops))
