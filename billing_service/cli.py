"""The program: `billing-service serve` and `billing-service migrate`. Configured by the environment; see `settings`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from billing_service import garbage
from billing_service.address import Addresses, ListenError
from billing_service.catalog_source import load_with_catalog
from billing_service.domain.catalog_file import CatalogError
from billing_service.domain.errors import BillingError
from billing_service.logs import configure_logs
from billing_service.settings import (
    MAX_WORKERS,
    DatabaseSettings,
    RepairSettings,
    Settings,
    SettingsError,
    load_settings,
)

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1  # what stood in the way while running: a port, the database, a defect
EXIT_USAGE: Final = 2  # arguments, settings or catalog; argparse uses the same
# What a command hangs on is imported when it is run: all of it together takes longer than most commands do.
_QUICK: Final = ("serve", "migrate")
_REPAIR: Final = "billing_service.repair"
# Commands for a pipeline, in which 2 says that there are differences: what stands in their way is 1, arguments too.
_DEPLOYMENT: Final[Mapping[str, str]] = {
    "catalog": "billing_service.catalog_commands",
    "webhook-endpoint": "billing_service.webhook_commands",
}

_log = structlog.stdlib.get_logger("billing_service")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code: 0 done, 1 something stood in the way, 2 settings or catalog do not hold.

    Those of `catalog` and `webhook-endpoint` are in `deployment_command`.
    """
    parsed = _parsed(list(sys.argv[1:] if arguments is None else arguments))
    command = parsed.command
    if command in _DEPLOYMENT:
        code: int = _late(_DEPLOYMENT[command]).run(parsed)
        return code
    try:
        if command not in _QUICK:
            return _repair(parsed)
        return _serve(parsed.workers) if command == "serve" else _migrate()
    except SettingsError as error:
        return _complain(f"billing-service {command} cannot start:\n{error}", EXIT_USAGE)
    except CatalogError as error:
        return _complain(f"billing-service {command} cannot start: {error}", EXIT_USAGE)
    except ListenError as error:
        return _complain(f"billing-service {command} cannot start. {error}", EXIT_FAILURE)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    try:
        return _parser(whole=arguments[:1] not in [[name] for name in _QUICK]).parse_args(arguments)
    except SystemExit as end:
        if end.code == EXIT_USAGE and arguments[:1] and arguments[0] in _DEPLOYMENT:
            raise SystemExit(EXIT_FAILURE) from None
        raise


def _late(module: str) -> Any:
    with garbage.loading():
        return importlib.import_module(module)


def _parser(*, whole: bool) -> argparse.ArgumentParser:
    """Give the parser of every command, or (not `whole`) of those that import little."""
    parser = argparse.ArgumentParser(
        prog="billing-service",
        description="Checkout and entitlements over gRPC. Configured by environment variables, BILLING_...",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="answer calls until SIGTERM or SIGINT, then drain")
    serve.add_argument(
        "--workers",
        type=_workers,
        metavar="N",
        help="processes on the same addresses, best one for each core (default: BILLING_WORKERS, or 1)",
    )
    commands.add_parser("migrate", help="bring the database to this program's schema (BILLING_DATABASE_URL)")
    if whole:
        _late(_REPAIR).add_commands(commands)
        for module in _DEPLOYMENT.values():
            _late(module).add_command(commands)
    return parser


def _repair(arguments: argparse.Namespace) -> int:
    """Run a command on the service's settings, those of its listeners left out; what only lists needs the database alone."""
    if arguments.command in {"quarantine", "findings"}:
        settings, catalog = load_settings(DatabaseSettings), None
    else:
        settings, catalog = load_with_catalog(RepairSettings)
    configure_logs("WARNING")
    code: int = _late(_REPAIR).run(arguments, settings, catalog)
    return code


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


def _migrate() -> int:
    settings = load_settings(DatabaseSettings)
    configure_logs(settings.log_level)
    try:
        revision = _late("billing_service.storage.schema").migrate(settings.database_url.get_secret_value())
    except BillingError as error:
        return _complain(f"billing-service migrate did nothing. {error.message}", EXIT_FAILURE)
    _log.info("migrated", revision=revision)
    return EXIT_OK


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_WORKERS}")
    return int(text)


def _serve(workers: int | None) -> int:
    settings, catalog = load_with_catalog(Settings)
    configure_logs(settings.log_level)
    _warn_of_exposure(settings)
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    if settings.workers > 1:
        return asyncio.run(_supervise_until_signal(settings))
    # Late: the parent of workers does without gRPC and all that hangs on it.
    code: int = _late("billing_service.serving").serve(settings, catalog)
    return code


def _warn_of_exposure(settings: Settings) -> None:
    if not settings.grpc_address.is_loopback and settings.access_file is None:
        _log.warning("insecure_listen", address=str(settings.grpc_address), meaning="whoever reaches it may call it")
    for address in (settings.grpc_address, settings.internal_address):
        if not address.is_loopback and settings.tls_certificate is None:
            _log.warning("insecure_listen", address=str(address), meaning="tokens and answers travel unencrypted")


async def _supervise_until_signal(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    code: int = await _late("billing_service.workers.supervisor").Supervisor(settings).serve(stop, _log_addresses)
    _log.info("stopped")
    return code


def _log_addresses(addresses: Addresses) -> None:
    _log.info("listening", grpc=str(addresses.grpc), internal=str(addresses.internal), ops=str(addresses.ops))
