"""A real gRPC server with the contract of the internal listener, that a test can hold, fail, stop and start again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import NoReturn

import grpc
from billing.internal.v1 import fulfillment_service_pb2 as pb
from billing.internal.v1 import fulfillment_service_pb2_grpc as pb_grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # likewise
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # comes without types
from grpc_status import rpc_status  # type: ignore[import-untyped,unused-ignore]  # may come without types

TOKEN = "the-token-of-gateways"
SERVICE_NAME = "billing.internal.v1.FulfillmentService"
Context = grpc.aio.ServicerContext[pb.FulfillRequest, pb.FulfillResponse]
Answering = Callable[[pb.FulfillRequest], pb.FulfillResponse | None]


class FulfillmentServer(pb_grpc.FulfillmentServiceServicer):
    """Commits what it is sent to a list, unless told otherwise."""

    def __init__(self, *, max_message_bytes: int = 4 * 1024 * 1024) -> None:
        self.address = "127.0.0.1:0"
        self.batches: list[list[bytes]] = []  # every call that arrived
        self.committed: list[bytes] = []
        self.begun = asyncio.Event()  # a call has arrived
        self.open = asyncio.Event()  # cleared: calls are held
        self.open.set()
        self.code: grpc.StatusCode | None = None  # every call fails with it
        self.reason = "DATABASE_UNAVAILABLE"
        self.answering: Answering = lambda _request: None  # gives another answer than the usual
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None
        self.health = health.aio.HealthServicer()

    async def start(self) -> None:
        """Listen: on a free port the first time, on the same one after that."""
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", self._max_message_bytes)])
        pb_grpc.add_FulfillmentServiceServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self.say(health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once: calls in flight are cut off."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    async def say(self, status: int) -> None:
        """Report this health."""
        await self.health.set(SERVICE_NAME, status)

    async def Fulfill(self, request: pb.FulfillRequest, context: Context) -> pb.FulfillResponse:  # noqa: N802 - the contract's name
        """Record the call, and answer as told."""
        if ("authorization", f"Bearer {TOKEN}") not in tuple(context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        payloads = [event.payload for event in request.events]
        self.batches.append(payloads)
        self.begun.set()
        await self.open.wait()
        if self.code is not None:
            await self._abort(context, self.code)
        answer = self.answering(request)
        if answer is None:
            self.committed.extend(payloads)
            answer = pb.FulfillResponse(results=[_applied(payload) for payload in payloads])
        return answer

    async def _abort(self, context: Context, code: grpc.StatusCode) -> NoReturn:
        """Fail as the service does, with google.rpc.Status."""
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="billing"))
        status = status_pb2.Status(code=code.value[0], message="told to", details=[detail])
        await context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError  # abort raises

    def ids(self) -> list[str]:
        """The ids of what was committed, in order."""
        return [event_id(payload) for payload in self.committed]


def event_id(payload: bytes) -> str:
    """The id in an event's body."""
    return str(json.loads(payload)["id"])


def _applied(payload: bytes) -> pb.FulfillResult:
    return pb.FulfillResult(event_id=event_id(payload), outcome=pb.FulfillResult.OUTCOME_APPLIED)
