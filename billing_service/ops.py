"""The health page: GET /livez and /readyz, for orchestrators and people, and /metrics, for Prometheus. Holds no secret and takes no input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from billing_service.address import Address, ListenError, check_free, listen_problem
from billing_service.readiness import Readiness

_MAX_BODY_BYTES: Final = 1_024  # nobody has a reason to send one
SHUTDOWN_S: Final = 1.0


@dataclass(frozen=True)
class Health:
    """How it is: what decides, and what an operator should know beside it."""

    readiness: Readiness
    warnings: Sequence[str]


@dataclass(frozen=True)
class Sources:
    """What is asked at each look: how it is, and the page for Prometheus."""

    health: Callable[[], Awaitable[Health]]
    metrics: Callable[[], Awaitable[bytes]]


class Ops(Protocol):
    """Where the page is shown: on a socket of our own, or by the parent of several workers."""

    async def start(self, address: Address, setting: str) -> Address:
        """Begin to show it, and say where."""

    async def stop(self) -> None:
        """Show it no more."""


def build_app(sources: Sources) -> web.Application:
    """Make the page.

    /livez answers 200 while the process turns round at all; /readyz 200 or 503 with
    {"ready": bool, "checks": {name: "ok" or the reason}, "warnings": [sentence]}.
    """

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def readyz(_request: web.Request) -> web.Response:
        found = await sources.health()
        return web.json_response(described(found), status=200 if found.readiness.ready else 503)

    async def scraped(_request: web.Request) -> web.Response:
        return web.Response(body=await sources.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/metrics", scraped)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    return app


def described(health: Health) -> dict[str, object]:
    """Give what /readyz says."""
    found = health.readiness
    return {"ready": found.ready, "checks": dict(found.checks), "warnings": list(health.warnings)}


class OpsListener:
    """The page on its socket."""

    def __init__(self, sources: Sources) -> None:
        """Take what the page is made of."""
        self._runner = web.AppRunner(build_app(sources), access_log=None, shutdown_timeout=SHUTDOWN_S)

    async def start(self, address: Address, setting: str) -> Address:
        """Listen, and give the address with the port that was taken.

        Raises:
            ListenError: when the address is in use or not ours; it names `setting`.
        """
        check_free(address, setting)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port).start()
        except OSError as error:
            raise ListenError(listen_problem(address, setting, error)) from None
        return Address(address.host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket and what is open on it."""
        await self._runner.cleanup()
