"""Reads a webhook's raw body within its bounds, whatever the sender does."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web

from webhook_gateway import refusal
from webhook_gateway.inflight import InFlight
from webhook_gateway.refusal import MAX_BODY_BYTES, Refusal

_Body = TypeVar("_Body", bytes, bytearray)

_READ_TIMEOUT_S = 5.0  # Stripe's bodies come in one piece


class BodyRefusedError(Exception):
    """The body is not one that we read; `refusal` is the answer."""

    def __init__(self, answer: Refusal) -> None:
        """Take the answer."""
        self.refusal = answer
        super().__init__(answer.code)


async def read_body(request: web.BaseRequest, in_flight: InFlight) -> bytes:
    """Read the body as it was sent: at most MAX_BODY_BYTES, in at most _READ_TIMEOUT_S, and less where others want the room.

    Raises:
        BodyRefusedError: the headers promise what we do not take, or the body is too large or too slow.
        ConnectionError: the sender went away.
    """
    promised = _refusal_of_headers(request)
    if promised is not None:
        raise BodyRefusedError(promised)
    if request.content.is_eof():  # as with nearly all of Stripe's: nothing to wait for, and no timer is set
        return _counted(request.content.read_nowait())
    limit = asyncio.timeout(_READ_TIMEOUT_S)
    in_flight.begin_body(limit)
    was_cut_off = False
    try:
        async with limit:
            try:
                return await _read_counted(request)
            finally:
                was_cut_off = in_flight.end_body(limit)
    except TimeoutError:
        raise BodyRefusedError(refusal.TOO_BUSY if was_cut_off else refusal.BODY_TIMEOUT) from None


def _refusal_of_headers(request: web.BaseRequest) -> Refusal | None:
    # Parsed by hand: a malformed header is "not JSON", never an exception of some parser.
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return refusal.NOT_JSON_TYPE
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        return refusal.ENCODED
    length = request.content_length
    if length is None and "Transfer-Encoding" not in request.headers:  # aiohttp takes no encoding but chunked
        return refusal.LENGTH_REQUIRED
    if length is not None and length > MAX_BODY_BYTES:
        return refusal.BODY_TOO_LARGE
    return None


async def _read_counted(request: web.BaseRequest) -> bytes:
    """Count while reading: a chunked body promises no length."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        _counted(body)
    return bytes(body)


def _counted(body: _Body) -> _Body:
    if len(body) > MAX_BODY_BYTES:
        raise BodyRefusedError(refusal.BODY_TOO_LARGE)
    return body
