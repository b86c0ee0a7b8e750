"""Answers what is not HTTP as everything else is answered: aiohttp would quote it, name itself and its version, and write an error with a traceback.

Whoever finds the address could fill the log with that.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from aiohttp import web

from webhook_gateway import refusal
from webhook_gateway.answers import refuse
from webhook_gateway.inflight import TurnedAway

_log = structlog.stdlib.get_logger(__name__)


class HttpServer(web.Server):
    """aiohttp's bare server, with connections of ours."""

    def __init__(self, handler: Any, **options: Any) -> None:
        """Take what aiohttp's takes."""
        super().__init__(handler, **options)
        self._unread = TurnedAway()

    def __call__(self) -> web.RequestHandler:
        """Make what serves a connection that was just opened."""
        return _Connection(self._unread, self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    def __init__(self, unread: TurnedAway, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._unread = unread

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse what could not be read as a request. Nothing of it is told: it may be the rest of somebody's body."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        if count := self._unread.note(time.monotonic()):
            _log.warning("not_http", status=refusal.NOT_HTTP.status, code=refusal.NOT_HTTP.code, count=count)
        return refuse(refusal.NOT_HTTP)
