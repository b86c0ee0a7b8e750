"""The program: `webhook-gateway`, or `python -m webhook_gateway`. Configured by the environment; see `settings`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop

from webhook_gateway import garbage, tracing
from webhook_gateway.logs import configure_logs
from webhook_gateway.server import serve
from webhook_gateway.settings import Settings, SettingsError, load_settings

_log = structlog.stdlib.get_logger("webhook_gateway")  # __name__ is "__main__" here


def main() -> int:
    """Run until SIGTERM or SIGINT; give the exit code: 0 after a drain, 1 where the address is taken, 2 for settings."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"webhook-gateway cannot start:\n{error}\n")
        return 2
    configure_logs(settings.log_level)
    tracing.start("webhook-gateway")
    try:
        uvloop.run(_serve_until_signal(settings))
    except OSError as error:
        sys.stderr.write(f"webhook-gateway cannot listen on {settings.address}: {_say(error)}\n")
        return 1
    finally:
        tracing.stop()
    return 0


def _say(error: OSError) -> str:
    """Say it in the system's words: asyncio puts a sentence of its own, with the address again, before them."""
    if error.errno is None or error.errno < 0:  # a name that does not resolve has a number of another table
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)


async def _serve_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop, listening=_log_address)
    _log.info("stopped")


def _log_address(address: str) -> None:
    garbage.settle()
    _log.info("listening", address=address)


if __name__ == "__main__":
    sys.exit(main())
