"""`python -m sandbox.traces`: takes traces on a loopback port and shows them there, until SIGTERM.

POST /v1/traces takes what an exporter sends (OTLP over HTTP, protobuf); GET / lists the traces, GET /traces/ID draws one, and
GET /traces.json gives all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from aiohttp import web
from google.protobuf.message import DecodeError

from sandbox.ports import HOST
from sandbox.traces.store import Traces
from sandbox.traces.waterfall import index, waterfall

PORT = 4318  # OTLP's own
_MAX_BODY_BYTES = 16 * 1024 * 1024


def build_app(traces: Traces) -> web.Application:
    """Lay out the routes."""

    async def take(request: web.Request) -> web.Response:
        try:
            traces.take(await request.read())
        except DecodeError:
            raise web.HTTPBadRequest(text="no ExportTraceServiceRequest") from None
        return web.Response(content_type="application/x-protobuf")

    async def listed(_request: web.Request) -> web.Response:
        return web.Response(text=index(traces.newest()), content_type="text/html")

    async def drawn(request: web.Request) -> web.Response:
        return web.Response(text=waterfall(traces.of(request.match_info["id"])), content_type="text/html")

    async def plain(_request: web.Request) -> web.Response:
        return web.json_response(traces.plain())

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post("/v1/traces", take)
    app.router.add_get("/", listed)
    app.router.add_get("/traces/{id}", drawn)
    app.router.add_get("/traces.json", plain)
    return app


async def _serve(port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(build_app(Traces()), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        print(f"listening on http://{HOST}:{port}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until asked to stop; give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.traces", description="Takes traces over OTLP and draws them."
    )
    parser.add_argument("--port", type=int, default=PORT)
    try:
        asyncio.run(_serve(parser.parse_args(argv).port))
    except OSError as error:
        print(f"traces: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
