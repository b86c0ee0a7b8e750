"""Runs the stand-in alone: `python -m sandbox.stripe --port 12111`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

from sandbox.stripe.app import StandInStripe

PORT_DEFAULT = 12111
API_KEY_DEFAULT = "sk_test_stand_in"
WEBHOOK_SECRET_DEFAULT = "whsec_stand_in"


def main() -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code: 1 when it cannot start, with one sentence why."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_serve(options))
    except (OSError, ValueError) as error:  # a port in use, a file that is not there or not TOML, a live key
        print(f"The stand-in for Stripe cannot start: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stand_in = StandInStripe(
        options.api_key, options.webhook_url, options.webhook_secret, options.state, clock_file=options.clock
    )
    catalog = _catalog(options.catalog)
    try:
        url = await stand_in.start(port=options.port)
        stand_in.seed(catalog)
        print(
            f"Stand-in Stripe at {url}; no money moves. Controls: {url}/_control",
            file=sys.stderr,
        )
        await stop.wait()
    finally:
        await stand_in.stop()


def _catalog(path: Path | None) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path else {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.stripe", description="A stand-in for Stripe; no money moves."
    )
    parser.add_argument("--port", type=int, default=PORT_DEFAULT, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--api-key", default=API_KEY_DEFAULT, help="the one key that opens it (default: %(default)s)")
    parser.add_argument("--state", type=Path, help="file that remembers everything; without it nothing is remembered")
    parser.add_argument("--clock", type=Path, help="file of the clock that is shared with the billing service")
    parser.add_argument("--webhook-url", help="where events are delivered; without it they are only listed")
    parser.add_argument("--webhook-secret", default=WEBHOOK_SECRET_DEFAULT, help="signs them (default: %(default)s)")
    parser.add_argument("--catalog", type=Path, help="catalog.toml whose products and prices are to exist")
    return parser


if __name__ == "__main__":
    sys.exit(main())
