"""The HTTP side: POST /webhooks/stripe, GET /livez, GET /readyz.

A webhook passes, in this order: the body's bounds, the signature over its raw bytes, the head of the event, live or test,
and the service. 200 is said only after the service has committed it; everything else is a refusal, listed in `refusal`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from aiohttp import HttpVersion11, web

from webhook_gateway import refusal, tracing
from webhook_gateway.answers import in_json, received, refuse
from webhook_gateway.body import BodyRefusedError, read_body
from webhook_gateway.event import EventHead, EventRefusedError, decode_head
from webhook_gateway.forward import LATE_S, Forwarder
from webhook_gateway.fulfillment import Answer, Committed, NotCommitted, VerifiedEvent
from webhook_gateway.inflight import InFlight, TurnedAway
from webhook_gateway.metrics import Metrics
from webhook_gateway.readiness import Readiness
from webhook_gateway.refusal import Refusal
from webhook_gateway.signature import NamedSecret, SignatureRefusedError, verify

WEBHOOK_PATH = "/webhooks/stripe"
# From the first byte of a request to our answer. Hosted Checkout waits 10 s before it sends the customer back.
ANSWER_LIMIT_S = 8.0

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

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


def build_handler(gateway: Gateway) -> Handler:
    """Make what answers every request, for aiohttp's bare server: its routes and middlewares would be a tenth of what a webhook costs."""

    def webhook(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        taken = _take_webhook(gateway, request)
        return _traced(taken) if tracing.is_on() else taken

    async def readyz(_request: web.BaseRequest) -> web.StreamResponse:
        reason = await gateway.readiness.why_not_ready()
        said = {"reason": reason, "warnings": list(gateway.warnings())}
        body = {"ready": reason is None, **{name: words for name, words in said.items() if words}}
        return in_json(body, 503 if reason else 200)

    routes: dict[str, dict[str, Handler]] = {
        WEBHOOK_PATH: {"POST": webhook},
        "/livez": {"GET": _livez, "HEAD": _livez},
        "/readyz": {"GET": readyz, "HEAD": readyz},
    }

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "Expect" in request.headers and not await _says_go_on(request):
            return refuse(refusal.EXPECTATION)
        methods = routes.get(request.rel_url.path_safe)
        if methods is None:
            return refuse(refusal.NOT_FOUND)
        handler = methods.get(request.method)
        if handler is None:
            return _refuse_method(methods)
        try:
            return await handler(request)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the sender went away: there is nobody to answer
        except Exception:  # noqa: BLE001 - the last resort: whatever it was, the sender hears that it may come again
            _log.exception("webhook_broken")
            return refuse(refusal.INTERNAL)

    return handle


async def _traced(taken: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    # A trace begins here: whoever posts has not shown yet that he is Stripe, and is not asked for one of his.
    with tracing.span(f"POST {WEBHOOK_PATH}", tracing.SpanKind.SERVER) as span:
        response = await taken
        span.set_attribute("http.response.status_code", response.status)
        return response


async def _says_go_on(request: web.BaseRequest) -> bool:
    """Tell a sender who waits for it that he may send the body, as aiohttp's routes do; say False where he expects something else."""
    expected = request.headers["Expect"]
    if expected and request.version == HttpVersion11:
        if expected.lower() != "100-continue":
            return False
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, nothing is sent
    return True


async def _livez(_request: web.BaseRequest) -> web.StreamResponse:
    return in_json({"live": True}, 200)


async def _take_webhook(gateway: Gateway, request: web.BaseRequest) -> web.StreamResponse:
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
    if not isinstance(answer, Refusal):
        return received(request, close=gateway.readiness.draining)
    response = refuse(answer)
    if gateway.readiness.draining:
        response.force_close()
    return response


def _turn_away(gateway: Gateway) -> web.Response:
    """Refuse, count, and tell the log of it now and then: each line of its own would cost what is short then."""
    answer = refusal.TOO_BUSY
    gateway.metrics.webhook(None, None, answer.code, answer.status, None)
    if count := gateway.turned_away.note(time.monotonic()):
        _log.warning("webhooks_turned_away", status=answer.status, code=answer.code, count=count)
    return refuse(answer)


async def _receive(gateway: Gateway, request: web.BaseRequest, told: _Told) -> Committed | Refusal:
    deadline = time.monotonic() + gateway.answer_limit_s
    try:
        body = await read_body(request, gateway.in_flight)
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
    forward = _forward_traced if tracing.is_on() else _forward
    answer = await forward(gateway, head, body, deadline)
    if isinstance(answer, NotCommitted):
        told.failure = answer.failure
        return refusal.of_failure(answer.failure)
    return answer


def _forward(gateway: Gateway, head: EventHead, body: bytes, deadline: float) -> Awaitable[Answer]:
    event = VerifiedEvent(head.event_id, body, tracing.traceparent(), head.stripe_customer_id)
    forwarder = gateway.backlog if _is_late(gateway, head) else gateway.live
    return forwarder.forward(event, deadline - time.monotonic())


async def _forward_traced(gateway: Gateway, head: EventHead, body: bytes, deadline: float) -> Answer:
    about: tracing.Attributes = {
        "billing.event.id": head.event_id,
        "billing.event.type": head.type,
        "billing.lane.late": _is_late(gateway, head),
    }
    with tracing.span("forward", attributes=about):
        return await _forward(gateway, head, body, deadline)


def _is_late(gateway: Gateway, head: EventHead) -> bool:
    return head.created is not None and head.created < gateway.clock() - LATE_S


def _signature_header(request: web.BaseRequest) -> str | None:
    """Give the header; sent twice it is one list, as HTTP has it, and then has one `t` too many."""
    return ",".join(request.headers.getall("Stripe-Signature", ())) or None


def _refuse_method(allowed: Iterable[str]) -> web.Response:
    response = refuse(refusal.METHOD_NOT_ALLOWED)
    response.headers["Allow"] = ",".join(sorted(allowed))
    return response


def _log_webhook(answer: Committed | Refusal, told: _Told, duration_s: float) -> None:
    known = {key: value for key, value in vars(told).items() if value is not None}
    duration_ms = round(duration_s * 1000, 1)
    if isinstance(answer, Refusal):
        _log.warning("webhook_refused", status=answer.status, code=answer.code, duration_ms=duration_ms, **known)
    else:
        _log.info("webhook_taken", outcome=answer.outcome, duration_ms=duration_ms, **known)
