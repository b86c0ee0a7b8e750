"""`python -m sandbox.storefront`: the pages, until SIGTERM. Configured by the environment; see `settings`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiohttp import web

from sandbox.storefront.app import build_app
from sandbox.storefront.billing import open_billing
from sandbox.storefront.settings import Settings, SettingsError


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with open_billing(settings.billing_target, settings.billing_token) as billing:
        runner = web.AppRunner(build_app(settings, billing), access_log=None, shutdown_timeout=5.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            print(f"listening on {settings.url}", flush=True)
            await stop.wait()
        finally:
            await runner.cleanup()


def main() -> int:
    """Serve until asked to stop; give the exit code."""
    try:
        asyncio.run(_serve(Settings.read(os.environ)))
    except (SettingsError, OSError) as error:
        print(f"storefront: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
