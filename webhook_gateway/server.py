"""Runs the gateway on its socket until told to stop, and then drains it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog
from aiohttp import web

from webhook_gateway.app import ANSWER_LIMIT_S, Gateway, build_handler
from webhook_gateway.forward import BACKLOG, Forwarder, Limits
from webhook_gateway.fulfillment import FulfillmentClient
from webhook_gateway.inflight import InFlight
from webhook_gateway.live_secrets import LiveSecrets
from webhook_gateway.metrics import Metrics, build_page
from webhook_gateway.readiness import Readiness
from webhook_gateway.settings import Settings, split_address
from webhook_gateway.strangers import HttpServer

# Longer than the keep-alive of usual proxies (60 s): the side that reuses a connection must not find it closed. It also
# bounds a connection that never finishes its headers.
_KEEP_ALIVE_S = 75.0
_LINGER_S = 2.0  # after a refusal that left the body unread: so that the sender sees the answer and not a reset
# A little more than the longest that an answer may take.
_DRAIN_S = ANSWER_LIMIT_S + 1.0
_CLOSE_S = 1.0

_log = structlog.stdlib.get_logger(__name__)


class Server:
    """The gateway, listening."""

    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        """Take the settings and the bounds. Needs a running event loop."""
        self._settings = settings
        self._live = LiveSecrets(settings)
        self._client = FulfillmentClient(
            target=settings.target(),
            token=self._live.token,
            tls=self._live.tls,
            server_name=settings.tls_server_name,
        )
        self._forwarders = (Forwarder(self._client.fulfill, limits), Forwarder(self._client.fulfill, BACKLOG))
        self._readiness = Readiness(self._client.why_not_serving, self._client.why_not_let_in)
        self._metrics = Metrics()
        self._metrics.show(
            {lane: partial(len, one) for lane, one in zip(("live", "backlog"), self._forwarders, strict=True)},
            lambda: float(self._readiness.draining),
        )
        self._metrics.show_files(lambda: float(len(self._live.watch.warnings())), self._live.ends())
        self._ops = web.AppRunner(
            build_page(self._metrics, self._readiness), access_log=None, shutdown_timeout=_CLOSE_S
        )
        self._in_flight = InFlight()
        self._runner = web.ServerRunner(
            HttpServer(
                build_handler(
                    Gateway(
                        secrets=self._live.secrets,
                        livemode=settings.livemode,
                        live=self._forwarders[0],
                        backlog=self._forwarders[1],
                        readiness=self._readiness,
                        in_flight=self._in_flight,
                        metrics=self._metrics,
                        warnings=self._live.watch.warnings,
                    )
                ),
                access_log=None,  # `app` writes one line per webhook, without addresses
                auto_decompress=False,  # the signed bytes are the sent ones
                handler_cancellation=False,  # a sender that goes away leaves its event on its way
                keepalive_timeout=_KEEP_ALIVE_S,
                lingering_time=_LINGER_S,
            ),
            shutdown_timeout=_CLOSE_S,
        )
        self._site: web.TCPSite | None = None
        self.ops_address: str | None = None  # where the metrics are, once it listens
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen, and give the address that is listened on, as host:port.

        Raises:
            OSError: the address cannot be had.
        """
        await self._start_ops()  # first: whether its address is taken shows before Stripe can connect
        host, port = split_address(self._settings.address)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port)
        await self._site.start()
        self._watching = asyncio.create_task(self._live.watch.run(), name="secrets")
        return _bound(self._runner)

    async def _start_ops(self) -> None:
        if self._settings.ops_address is None:
            return
        host, port = split_address(self._settings.ops_address)
        await self._ops.setup()
        await web.TCPSite(self._ops, host, port).start()
        self.ops_address = _bound(self._ops)

    async def stop(self) -> None:
        """Say that we are going, take no new connections, answer what was begun, and leave.

        Takes 12 s at most, and before them the delay of the settings: whoever sends us webhooks by /readyz looks elsewhere
        meanwhile, and finds nobody gone.
        """
        self._readiness.draining = True
        if self._site is not None:
            await asyncio.sleep(self._settings.drain_delay_s)
        if self._site is not None:
            await self._site.stop()
        if not await self._in_flight.wait_idle(_DRAIN_S):
            _log.warning("drain_incomplete", waited_s=_DRAIN_S)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._runner.cleanup()
        await self._ops.cleanup()
        await asyncio.gather(*(forwarder.close(_CLOSE_S) for forwarder in self._forwarders))
        await self._client.close()


def _bound(runner: web.BaseRunner) -> str:
    """Give the address that is listened on, as host:port."""
    host, port = runner.addresses[0][:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def serve(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Serve until `stop` is set, then drain. `listening` hears the address once there is one.

    Raises:
        OSError: the address cannot be had.
    """
    server = Server(settings)
    try:
        listening(await server.start())
        await stop.wait()
    finally:
        await server.stop()
