"""The responses: JSON with our headers, and the receipt, which nearly every webhook gets."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from webhook_gateway.refusal import RETRY_AFTER_S, Refusal

_HEADERS: Final = {"Cache-Control": "no-store", "Server": "webhook-gateway"}  # not which Python and which aiohttp
_RECEIVED: Final = b'{"received": true}'


def in_json(content: dict[str, Any], status: int) -> web.Response:
    """Answer in JSON."""
    return web.json_response(content, status=status, headers=_HEADERS)


def refuse(answer: Refusal) -> web.Response:
    """Say why not, and whether to come again."""
    response = in_json({"error": {"code": answer.code, "message": answer.message}}, answer.status)
    if answer.retry:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if answer.close:
        response.force_close()
    return response


def received(request: web.BaseRequest, *, close: bool) -> web.StreamResponse:
    """Say that we have it; `close` ends the connection with that."""
    if not close and request.keep_alive and request.version == HttpVersion11:
        return _Receipt()
    response = web.Response(body=_RECEIVED, content_type="application/json", headers=_HEADERS)
    if close:
        response.force_close()
    return response


class _Receipt(web.StreamResponse):
    """What `received` says on a connection that stays, byte for byte, without putting together headers that are always the same."""

    _writer: AbstractStreamWriter

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        self._writer = request.writer
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        await self._writer.write(_receipts.at(int(time.time())))
        await self._writer.drain()  # whoever sends on and reads nothing is not read on either


class _Receipts:
    """The bytes of a receipt: they change once a second, with the date."""

    def __init__(self) -> None:
        """Begin with none."""
        self._second = -1
        self._bytes = b""

    def at(self, second: int) -> bytes:
        """Give them for a second of Unix time."""
        if second != self._second:
            headers = {
                **_HEADERS,
                "Content-Type": "application/json",
                "Content-Length": str(len(_RECEIVED)),
                "Date": formatdate(second, usegmt=True),
            }
            lines = ("HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in headers.items()), "", "")
            self._second, self._bytes = second, "\r\n".join(lines).encode() + _RECEIVED
        return self._bytes


_receipts: Final = _Receipts()
