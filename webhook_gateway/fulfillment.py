"""The gRPC client of the service's internal listener: one batch out, one answer per event back; is it healthy, does it let us in.

Here, and only here, gRPC statuses become values.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

import grpc
import msgspec
import structlog
from billing.internal.v1 import fulfillment_service_pb2 as pb
from billing.internal.v1 import fulfillment_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # comes without types

from webhook_gateway import tracing
from webhook_gateway.tls import Tls

SERVICE_NAME = "billing.internal.v1.FulfillmentService"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # gRPC's default limit for what a server receives
_ASK_TIMEOUT_S = 1.0  # for a question of readiness
_LEAVING_S = 10.0  # for the calls on a connection whose certificates were replaced; none takes longer

_log = structlog.stdlib.get_logger(__name__)

_SERVICE_CONFIG = {
    # A name with several addresses, a headless Service, is every process behind it: one that goes is no pause.
    "loadBalancingConfig": [{"round_robin": {}}],
    # Each says whether it serves: one that is about to stop gets no more calls.
    "healthCheckConfig": {"serviceName": SERVICE_NAME},
    "methodConfig": [
        {
            "name": [{"service": SERVICE_NAME}],
            # A restart of the service takes a second or two: the call waits for it, within its deadline, instead of
            # leaving the event to Stripe's next retry, which may be an hour away. Fulfill is idempotent.
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.2s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}

_CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),  # what is larger than this is not retried; default 256 KiB
    # The defaults let a gateway sleep two minutes after the service has come back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # With keepalive on, gRPC also sets TCP_USER_TIMEOUT: a peer that vanished without a FIN costs 3 s, not 15 minutes. Where a proxy
    # acknowledges for it, the timeout of pings counts, a minute by default.
    # No pings while idle, which servers at their defaults answer with GOAWAY.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 0),
)


class VerifiedEvent(msgspec.Struct, frozen=True):  # made at a fraction of what a frozen dataclass costs
    """An event whose signature was verified."""

    event_id: str
    payload: bytes  # the raw body
    traceparent: str | None = None  # of the span in which it waits
    stripe_customer_id: str | None = None  # whom it is about, where it says so


class Failure(StrEnum):
    """Why an event was not committed. Each may be mended by sending it again."""

    UNAVAILABLE = "service_unavailable"
    TIMEOUT = "service_timeout"
    OVERLOADED = "overloaded"
    UNAUTHENTICATED = "misconfigured"  # the token that we send is not the one that the service wants
    REFUSED = "service_refused"  # the call itself; the contract gives no reason for it
    BROKEN = "service_broken"  # an internal error over there, or an answer that is not of the contract
    DRAINING = "shutting_down"


@dataclass(frozen=True)
class Committed:
    """The service has the event for good."""

    outcome: str  # FulfillResult.Outcome in lower case, without its prefix


@dataclass(frozen=True)
class NotCommitted:
    """The event must come again."""

    failure: Failure


Answer = Committed | NotCommitted


@dataclass(frozen=True)
class CallFailed:
    """A whole call failed and nothing of it was recorded."""

    failure: Failure
    perhaps_one_event: bool  # one event of the batch may be to blame: its neighbours may pass without it


class FulfillmentClient:
    """A channel to the internal listener, with the token that it demands."""

    def __init__(
        self,
        *,
        target: str,
        token: Callable[[], str | None],
        tls: Callable[[], Tls | None] = lambda: None,
        server_name: str | None = None,
    ) -> None:
        """Take host:port, and what gives the token (None: none is shown) and TLS (None: plain text) of the moment.

        `server_name` is what the service's certificate says, where that is not the host. Connects when first used. Needs a
        running event loop.
        """
        self._target, self._token, self._tls = target, token, tls
        name = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
        self._options = (*_CHANNEL_OPTIONS, *name)
        self._known = tls()
        self._leaving: set[asyncio.Task[None]] = set()  # bounded: certificates change rarely, and each ends in 10 s
        self._connect()

    def _connect(self) -> None:
        known = self._known
        self._channel = (
            grpc.aio.insecure_channel(self._target, options=self._options)
            if known is None
            else grpc.aio.secure_channel(
                self._target,
                grpc.ssl_channel_credentials(known.ca, known.key, known.certificate),
                options=self._options,
            )
        )
        self._stub = pb_grpc.FulfillmentServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def _follow(self) -> None:
        """Connect anew where the certificates have changed; calls in flight end on the old connection."""
        current = self._tls()
        if current is self._known:
            return
        self._known, old = current, self._channel
        self._connect()
        leaving = asyncio.create_task(old.close(_LEAVING_S))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    async def fulfill(self, events: Sequence[VerifiedEvent], timeout_s: float) -> tuple[Answer, ...] | CallFailed:
        """Send one batch, and wait at most `timeout_s` for its commit; one answer per event, in their order."""
        self._follow()
        request = pb.FulfillRequest(
            events=[pb.VerifiedEvent(payload=event.payload, traceparent=event.traceparent or "") for event in events]
        )
        with _call_span(events) as span:
            traced = tracing.traceparent()
            metadata = (*self._metadata, (tracing.TRACEPARENT, traced)) if traced else self._metadata
            try:
                response = await self._stub.Fulfill(request, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                tracing.fail(span, error.code().name)
                return _failed(error, len(events))
        return _answers(events, response)

    async def why_not_serving(self) -> str | None:
        """Give None while the service says that it serves, else a word for why it does not. Takes at most 1 s."""
        self._follow()
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        try:
            response = await self._health.Check(request, timeout=_ASK_TIMEOUT_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return error.code().name.lower()
        if response.status == health_pb2.HealthCheckResponse.SERVING:
            return None
        name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        return name.lower()

    async def why_not_let_in(self) -> str | None:
        """Give None unless the service refuses our token or certificate, else words for that. Takes at most 1 s.

        It is asked by a batch of no event. Whatever else comes of that says nothing of the credential.
        """
        self._follow()
        try:
            await self._stub.Fulfill(pb.FulfillRequest(), timeout=_ASK_TIMEOUT_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() in _CODES_OF_CREDENTIAL:
                return f"our token or certificate is refused ({error.code().name.lower()})"
        return None

    async def close(self) -> None:
        """Close the channel at once; a call in flight is cancelled."""
        await self._channel.close()
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)


def _call_span(events: Sequence[VerifiedEvent]) -> AbstractContextManager[tracing.Span]:
    """Record a call below the first of its events that is traced, and have it point to the others."""
    known = [event.traceparent for event in events if event.traceparent]
    if not known:
        return tracing.UNRECORDED
    parents = [parent for parent in known if tracing.is_kept(parent)] or known[:1]
    about: tracing.Attributes = {
        "rpc.system": "grpc",
        "rpc.service": SERVICE_NAME,
        "rpc.method": "Fulfill",
        "billing.events": len(events),
    }
    name = f"{SERVICE_NAME}/Fulfill"
    return tracing.span(name, tracing.SpanKind.CLIENT, parent=parents[0], links=parents[1:], attributes=about)


_FAILURE_OF_CODE = {
    grpc.StatusCode.UNAVAILABLE: Failure.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.TIMEOUT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure.OVERLOADED,
    grpc.StatusCode.UNAUTHENTICATED: Failure.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Failure.UNAUTHENTICATED,
    grpc.StatusCode.INVALID_ARGUMENT: Failure.REFUSED,
    grpc.StatusCode.UNIMPLEMENTED: Failure.REFUSED,
    grpc.StatusCode.CANCELLED: Failure.UNAVAILABLE,
    grpc.StatusCode.ABORTED: Failure.UNAVAILABLE,
}
_CODES_OF_CREDENTIAL = frozenset(
    code for code, failure in _FAILURE_OF_CODE.items() if failure is Failure.UNAUTHENTICATED
)
# What a single event can do to the batch that it is in. Not UNAVAILABLE and its like: smaller batches mend nothing there.
_CODES_OF_DATA = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)


def _failed(error: grpc.aio.AioRpcError, count: int) -> CallFailed:
    code = error.code()
    failed = CallFailed(
        failure=_FAILURE_OF_CODE.get(code, Failure.BROKEN),
        perhaps_one_event=code in _CODES_OF_DATA or _is_message_too_large(error),
    )
    # Neither the details nor the error itself: both may quote what was sent.
    level = _log.warning if failed.failure in {Failure.UNAVAILABLE, Failure.TIMEOUT, Failure.OVERLOADED} else _log.error
    level("fulfill_failed", grpc_code=code.name, failure=failed.failure, events=count)
    return failed


def _is_message_too_large(error: grpc.aio.AioRpcError) -> bool:
    """Tell gRPC's own refusal of a large message from the service's OVERLOADED, which carries google.rpc.Status."""
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return False
    return not any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())


_COMMITTED = {
    number: Committed(name.removeprefix("OUTCOME_").lower()) for name, number in pb.FulfillResult.Outcome.items()
}


def _answers(events: Sequence[VerifiedEvent], response: pb.FulfillResponse) -> tuple[Answer, ...]:
    """Match results to events; what does not match is not taken for committed."""
    if len(response.results) != len(events):
        _log.error("fulfill_answer_broken", events=len(events), results=len(response.results))
        return (NotCommitted(Failure.BROKEN),) * len(events)
    return tuple(_answer(event, result) for event, result in zip(events, response.results, strict=True))


def _answer(event: VerifiedEvent, result: pb.FulfillResult) -> Answer:
    event_id, outcome = result.event_id, result.outcome
    named_another = event_id not in ("", event.event_id)
    if named_another or outcome == pb.FulfillResult.OUTCOME_UNSPECIFIED:
        _log.error("fulfill_result_broken", event_id=event.event_id, named_another=named_another)
        return NotCommitted(Failure.BROKEN)
    # One of a newer service, which this gateway does not know, is final like all of them.
    return _COMMITTED.get(outcome) or Committed(f"outcome_{outcome}")
