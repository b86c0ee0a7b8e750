"""The HTTP side: POST /webhooks/stripe, GET /livez, GET /readyz.

A webhook passes, in this order: the body's bounds, the signature over its raw bytes, the head of the event, live or test,
and the service. 200 is said only after the service has committed it; everything else is a refusal, listed in `refusal`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from webhook_gateway import refusal, tracing
from webhook_gateway.body import BodyRefusedError, read_body
from webhook_gateway.event import EventRefusedError, decode_head
from webhook_gateway.forward import LATE_S, Forwarder
from webhook_gateway.fulfillment import Committed, NotCommitted, VerifiedEvent
from webhook_gateway.inflight import InFlight, TurnedAway
from webhook_gateway.metrics import Metrics
from webhook_gateway.readiness import Readiness
from webhook_gateway.refusal import MAX_BODY_BYTES, RETRY_AFTER_S, Refusal
from webhook_gateway.signature import NamedSecret, SignatureRefusedError, verify

WEBHOOK_PATH = "/webhooks/stripe"
# From the first byte of a request to our answer. Hosted Checkout waits 10 s before it sends the customer back.
ANSWER_LIMIT_S = 8.0

_HEADERS = {"Cache-Control": "no-store", "Server": "webhook-gateway"}  # not which Python and which aiohttp

_RECEIVED = b'{"received": true}'

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Gateway:
    """What a webhook needs on its way."""

    secrets: Callable[[], Sequence[NamedSecret]]  # asked at each webhook: they may change
    livemode: bool
    live: Forwarder
    backlog: Forwarder
    readiness: Readiness
    in_flight: InFlight
    metrics: Metrics
    warnings: Callable[[], Sequence[str]] = tuple  # what an operator should know beside readiness
    turned_away: TurnedAway = field(default_factory=TurnedAway)
    clock: Callable[[], float] = time.time  # unix seconds; Stripe's signatures are of the real time
    answer_limit_s: float = ANSWER_LIMIT_S


@dataclass
class _Told:
    """What the log line of one webhook says, as far as it is known; of the body only what was verified."""

    secret: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    failure: str | None = None  # why the service did not commit


def build_app(gateway: Gateway) -> web.Application:
    """Lay out the routes."""
    # The limit of `client_max_size` is for request.read(), which is not used: `body` counts for itself.
    app = web.Application(middlewares=[_answer_in_json], client_max_size=MAX_BODY_BYTES)

    async def webhook(request: web.Request) -> web.StreamResponse:
        # A trace begins here: whoever posts has not shown yet that he is Stripe, and is not asked for one of his.
        with tracing.span(f"POST {WEBHOOK_PATH}", tracing.SpanKind.SERVER) as span:
            response = await _take_webhook(gateway, request)
            span.set_attribute("http.response.status_code", response.status)
            return response

    async def readyz(_request: web.Request) -> web.StreamResponse:
        reason = await gateway.readiness.why_not_ready()
        said = {"reason": reason, "warnings": list(gateway.warnings())}
        body = {"ready": reason is None, **{name: words for name, words in said.items() if words}}
        return _json(body, 503 if reason else 200)

    app.router.add_post(WEBHOOK_PATH, webhook)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", readyz)
    return app


async def _livez(_request: web.Request) -> web.StreamResponse:
    return _json({"live": True}, 200)


async def _take_webhook(gateway: Gateway, request: web.Request) -> web.StreamResponse:
    """Take one webhook, answer it, and write its one log line."""
    if not gateway.in_flight.enter():
        return _turn_away(gateway)
    started_at = time.monotonic()
    told = _Told()
    try:
        answer = await _receive(gateway, request, told)
    except ConnectionError:
        raise  # the sender went away
    except Exception:
        broken = refusal.INTERNAL
        gateway.metrics.webhook(told.event_type, told.secret, broken.code, broken.status, None)
        raise
    finally:
        gateway.in_flight.leave()
    duration_s = time.monotonic() - started_at
    _log_webhook(answer, told, duration_s)
    outcome, status = (answer.code, answer.status) if isinstance(answer, Refusal) else (answer.outcome, 200)
    gateway.metrics.webhook(told.event_type, told.secret, outcome, status, duration_s)
    response = _refuse(answer) if isinstance(answer, Refusal) else _received()
    if gateway.readiness.draining:
        response.force_close()
    return response


def _turn_away(gateway: Gateway) -> web.Response:
    """Refuse, count, and tell the log of it now and then: each line of its own would cost what is short then."""
    answer = refusal.TOO_BUSY
    gateway.metrics.webhook(None, None, answer.code, answer.status, None)
    if count := gateway.turned_away.note(time.monotonic()):
        _log.warning("webhooks_turned_away", status=answer.status, code=answer.code, count=count)
    return _refuse(answer)


async def _receive(gateway: Gateway, request: web.Request, told: _Told) -> Committed | Refusal:
    deadline = time.monotonic() + gateway.answer_limit_s
    try:
        body = await read_body(request)
        told.secret = verify(
            header=_signature_header(request), body=body, secrets=gateway.secrets(), now=gateway.clock()
        )
        head = decode_head(body)
    except BodyRefusedError as error:
        return error.refusal
    except SignatureRefusedError as error:
        return refusal.of_signature(error.fault)
    except EventRefusedError as error:
        return refusal.of_event(error.fault)
    told.event_id, told.event_type = head.event_id, head.type
    if head.livemode is not gateway.livemode:
        return refusal.of_livemode(event_is_live=head.livemode)
    late = head.created is not None and head.created < gateway.clock() - LATE_S
    forwarder = gateway.backlog if late else gateway.live
    about: tracing.Attributes = {
        "billing.event.id": head.event_id,
        "billing.event.type": head.type,
        "billing.lane.late": late,
    }
    with tracing.span("forward", attributes=about):
        event = VerifiedEvent(head.event_id, body, tracing.traceparent(), head.stripe_customer_id)
        answer = await forwarder.forward(event, deadline - time.monotonic())
    if isinstance(answer, NotCommitted):
        told.failure = answer.failure
        return refusal.of_failure(answer.failure)
    return answer


def _signature_header(request: web.Request) -> str | None:
    """Give the header; sent twice it is one list, as HTTP has it, and then has one `t` too many."""
    values = request.headers.getall("Stripe-Signature", [])
    return ",".join(values) or None


@web.middleware
async def _answer_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer in JSON where aiohttp would in text, and let no exception show itself."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        response = _refuse(refusal.METHOD_NOT_ALLOWED)
        response.headers["Allow"] = error.headers["Allow"]
        return response
    except web.HTTPNotFound:
        return _refuse(refusal.NOT_FOUND)
    except (ConnectionError, asyncio.CancelledError):
        raise  # the sender went away: there is nobody to answer
    except Exception:  # noqa: BLE001 - the last resort: whatever it was, the sender hears that it may come again
        _log.exception("webhook_broken")
        return _refuse(refusal.INTERNAL)


def _received() -> web.Response:
    return web.Response(body=_RECEIVED, content_type="application/json", headers=_HEADERS)


def _refuse(answer: Refusal) -> web.Response:
    response = _json({"error": {"code": answer.code, "message": answer.message}}, answer.status)
    if answer.retry:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if answer.close:
        response.force_close()
    return response


def _json(content: dict[str, Any], status: int) -> web.Response:
    return web.json_response(content, status=status, headers=_HEADERS)


def _log_webhook(answer: Committed | Refusal, told: _Told, duration_s: float) -> None:
    known = {key: value for key, value in vars(told).items() if value is not None}
    duration_ms = round(duration_s * 1000, 1)
    if isinstance(answer, Refusal):
        _log.warning("webhook_refused", status=answer.status, code=answer.code, duration_ms=duration_ms, **known)
    else:
        _log.info("webhook_taken", outcome=answer.outcome, duration_ms=duration_ms, **known)
