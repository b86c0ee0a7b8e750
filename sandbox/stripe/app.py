"""The stand-in as one thing that starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.stripe import checkout_sessions, events, schedule
from sandbox.stripe.account import Account
from sandbox.stripe.api import Api, Interceptor
from sandbox.stripe.clock import Clock
from sandbox.stripe.control import ControlApi
from sandbox.stripe.control_route import Surroundings
from sandbox.stripe.deliveries import Backoff, Deliveries, Webhook
from sandbox.stripe.faults import Faults
from sandbox.stripe.form import BODY_LIMIT_BYTES
from sandbox.stripe.hosted_page import HostedPage
from sandbox.stripe.portal_page import PortalPage
from sandbox.stripe.seed import seed
from sandbox.stripe.store import Store

SWEEP_EVERY_S = 1.0  # how late a session may expire by itself when nobody looks at it
STOP_WAIT_S = 2.0  # for requests in progress when the server stops

_log = logging.getLogger(__name__)


class StandInStripe:
    """A Stripe account in test mode behind an HTTP server on the loopback interface. No money moves.

    `now` gives the account's time (seconds since the epoch). `intercept` may be set to delay, fail or cut API requests.
    """

    def __init__(
        self,
        api_key: str,
        webhook_url: str | None = None,
        webhook_secret: str = "",
        state_path: Path | None = None,
        now: Callable[[], float] = time.time,
        *,
        backoff: Backoff | None = None,
        clock_file: Path | None = None,
    ) -> None:
        """Take the one key that opens the API (a test key), the webhook endpoint and where to remember things.

        `clock_file` is where the clock's offset is kept for the billing service to read.

        Raises ValueError for a live key: whoever holds one must not believe that he talks to Stripe.
        """
        if "_test_" not in api_key:
            raise ValueError("The stand-in for Stripe takes test keys only (sk_test_...).")
        webhook = Webhook(webhook_url, webhook_secret) if webhook_url else None
        self._faults = Faults()
        self.deliveries = Deliveries(webhook, backoff or Backoff(), self._faults)
        self._store = Store(state_path)
        self._clock = Clock(now, clock_file)
        self._account = Account(self._store, self._clock, self.deliveries.announce)
        self._api = Api(self._account, api_key, self._faults)
        self._runner: web.AppRunner | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen and return the base URL. Raises ValueError for a host beyond loopback, OSError for a port in use."""
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(
                f"The stand-in for Stripe listens on loopback only, not on {host}: its controls have no key."
            )
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        page = HostedPage(self._account, self.deliveries)
        controls = ControlApi(Surroundings(self._account, self.deliveries, self._clock, self._faults))
        for routed in (self._api, page, PortalPage(self._account), controls):
            app.router.add_routes(routed.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_WAIT_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        self._store.open()
        await site.start()
        bound = self._runner.addresses[0][1]
        self._account.base_url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        checkout_sessions.place_pages(self._account)
        await self.deliveries.start(self._account)
        self._sweeper = asyncio.create_task(self._sweep(), name="stand-in stripe sweep")
        return self._account.base_url

    async def stop(self) -> None:
        """Stop listening and sending; what is pending is remembered."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        if self._runner is not None:
            await self._runner.cleanup()
        await self.deliveries.stop()
        self._store.close()

    def set_webhook(self, url: str, secret: str) -> None:
        """Send events there from now on, pending ones too."""
        self.deliveries.webhook = Webhook(url, secret)

    def seed(self, catalog: Mapping[str, Any]) -> None:
        """Make the products and prices of a parsed catalog.toml; call it after `start`, which reads what exists.

        Their events are listed and sent to nobody, as of products made before the webhook endpoint was.
        """
        with self.deliveries.unheard():
            seed(self._account, catalog)
        self._store.commit()

    @property
    def intercept(self) -> Interceptor | None:
        """What is awaited before each API request that is about to run; see `api.Interceptor`."""
        return self._api.intercept

    @intercept.setter
    def intercept(self, interceptor: Interceptor | None) -> None:
        self._api.intercept = interceptor

    def advance(self) -> None:
        """Do what the account's time has made due: sessions expire, subscriptions renew and end."""
        schedule.catch_up(self._account, self._clock)
        self._api.keys.forget_old()
        events.forget_old(self._account)
        self._store.commit()

    async def _sweep(self) -> None:
        while True:
            try:
                self.advance()
            except Exception:  # noqa: BLE001  # one odd object must not stop time for the others
                _log.exception("the sweep failed; it runs again")
            await asyncio.sleep(SWEEP_EVERY_S)
