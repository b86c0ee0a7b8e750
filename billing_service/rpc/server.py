"""The two gRPC listeners: the public one, and the internal one, each with health and with a gate for who may pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

import grpc
from billing.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from billing.internal.v1 import fulfillment_service_pb2, fulfillment_service_pb2_grpc
from billing.v1 import billing_service_pb2, billing_service_pb2_grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # ships no types

from billing_service import tracing
from billing_service.access import Role
from billing_service.address import Address, ListenError, check_free
from billing_service.rpc import health
from billing_service.rpc.guard import OPEN, Gate, Guard, Share
from billing_service.rpc.health import Health
from billing_service.rpc.interceptors import Admission, CallLog, Deadline, ErrorTranslation, Observe, Streams
from billing_service.rpc.layers import RequestDecoding
from billing_service.rpc.roles import declared_roles
from billing_service.rpc.spans import Trace

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024  # as the contract says
MAX_CALLS: Final = 1_000  # at once; what a second of a busy process holds, and more only queues for the database
MAX_OTHER_CALLS: Final = 200  # reflection, and what is about to be refused, beside them
MAX_WATCHES: Final = 2_000  # streams; the flow refuses more with a reason

# Each client holds one, and a second one while the first is draining; health is watched on at most 2,000.
MAX_CONNECTIONS: Final = 3_000  # of a listener; the next one is closed before it has said anything
HANDSHAKE_MS: Final = (
    10_000  # one that has not said by then that it speaks HTTP/2 gives its place back; gRPC's own is two minutes
)

CUT_S: Final = 1.0  # for gRPC to end what outlived its grace
LISTENER_STOP_S: Final = health.TELL_LIMIT_S + CUT_S  # what a stop takes beside its grace, at most

PUBLIC_SERVICE: Final = billing_service_pb2.DESCRIPTOR.services_by_name["BillingService"]
INTERNAL_SERVICE: Final = fulfillment_service_pb2.DESCRIPTOR.services_by_name["FulfillmentService"]
ADMIN_SERVICE: Final = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS + MAX_OTHER_CALLS + MAX_WATCHES),
    # A peer that vanished (no FIN) is noticed within 80 s, and its calls cancelled. The first timeout is TCP's, for what its machine does
    # not acknowledge; where a proxy acknowledges for it, the second counts, which is a minute by default.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Callers may ping every 10 s, also while idle; more often is answered with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Half an hour (gRPC spreads it by a tenth), and a minute for what is in flight: then the caller connects anew. So
    # load finds new servers, and a certificate that has expired, or is named no more, is asked for again.
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 65_000),
)


class Listener:
    """One gRPC server: a service, health (NOT_SERVING until told otherwise), and what is put around every call."""

    def __init__(
        self,
        service: ServiceDescriptor,
        register: Callable[[grpc.aio.Server], None],
        *,
        gate: Gate,
        credentials: grpc.ServerCredentials | None = None,
        beside: Sequence[ServiceDescriptor] = (),
        roles: Mapping[str, Role] | None = None,
        share: Share | None = None,
        health_of: Callable[[Collection[str]], Health] = Health,
        max_calls: int = MAX_CALLS,
        max_connections: int = MAX_CONNECTIONS,
        observe: Observe | None = None,
        shared: bool = False,
    ) -> None:
        """Take the service, what adds the servicers, who may pass, TLS (None: plain text), other services, and what is not as usual.

        `shared`: the workers of one parent listen on one address, each for its part of the connections. The parent has checked
        that it is free.
        """
        self._shared = shared
        services = (service, *beside)
        self._names = ("", *(one.full_name for one in services))
        self._credentials = credentials
        self._admission = Admission(max_calls)
        self._streams = Streams()
        self._stopping: asyncio.Task[None] | None = None
        declared = {path: role for one in services for path, role in declared_roles(one).items()}
        guard = self._guard = Guard(gate, declared if roles is None else roles)
        self._server = grpc.aio.server(
            interceptors=_interceptors(CallLog(observe), guard, share or Share(), self._admission, self._streams),
            options=(
                *OPTIONS,
                ("grpc.max_allowed_incoming_connections", max_connections),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
                # By itself off: with it two programs on one port both start, and each gets half of the calls.
                ("grpc.so_reuseport", int(shared)),
            ),
            # Each kind has a bound of its own further in: none takes the place of another.
            maximum_concurrent_rpcs=max_calls + MAX_OTHER_CALLS + MAX_WATCHES + health.MAX_HEALTH_CALLS,
        )
        self._health = health_of(self._names)
        self._health.register(self._server)
        register(self._server)
        reflection.enable_server_reflection(
            (*self._names[1:], health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self, address: Address, setting: str) -> Address:
        """Listen, and give the address with the port that was taken.

        Raises:
            ListenError: when the address is in use or not ours; it names `setting`.
        """
        if not self._shared:
            check_free(address, setting)
        try:
            port = self._add_port(str(address))
        except RuntimeError:  # somebody was faster
            raise ListenError(f"{setting}: cannot listen on {address}. Choose another address.") from None
        await self._server.start()
        return Address(address.host, port)

    def _add_port(self, address: str) -> int:
        if self._credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, self._credentials)

    def look_again(self) -> None:
        """End the streams of whoever may not pass any more; called when the gate's credentials have changed."""
        self._guard.look_again()

    async def set_serving(self, *, serving: bool) -> None:
        """Say through health whether calls can be answered."""
        await self._health.tell(serving=serving)

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no more calls, and give those in flight `grace_s` to end; then cut what is left.

        Streams have no end of their own and are ended as soon as no other call is in flight. A second stop waits for the
        first: two at once in gRPC end in a segmentation fault (grpcio 1.85).
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        await self._health.end()
        loop = asyncio.get_running_loop()
        began = loop.time()
        closing = asyncio.create_task(self._server.stop(grace_s), name="closing")
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._admission.idle()
        self._streams.end()
        # Not cancelled where it is late: a stop of gRPC's that is left half done may crash.
        await asyncio.wait({closing}, timeout=grace_s + CUT_S - (loop.time() - began))


def _interceptors(
    log: CallLog, guard: Guard, share: Share, admission: Admission, streams: Streams
) -> Sequence[grpc.aio.ServerInterceptor]:
    """The one order, the outermost first; `interceptors` says what each is for."""
    layers = (log, ErrorTranslation(), guard, share, admission, streams, Deadline(), RequestDecoding())
    return (Trace(), *layers) if tracing.is_on() else layers


def public_listener(
    servicer: billing_service_pb2_grpc.BillingServiceServicer,
    *,
    gate: Gate = OPEN,
    credentials: grpc.ServerCredentials | None = None,
    max_calls: int = MAX_CALLS,
    observe: Observe | None = None,
    shared: bool = False,
) -> Listener:
    """Make the listener that callers use."""

    def register(server: grpc.aio.Server) -> None:
        billing_service_pb2_grpc.add_BillingServiceServicer_to_server(servicer, server)

    return Listener(
        PUBLIC_SERVICE,
        register,
        gate=gate,
        credentials=credentials,
        max_calls=max_calls,
        observe=observe,
        shared=shared,
    )


def internal_listener(
    servicer: fulfillment_service_pb2_grpc.FulfillmentServiceServicer,
    admin: admin_service_pb2_grpc.AdminServiceServicer | None = None,
    *,
    gate: Gate,
    credentials: grpc.ServerCredentials | None = None,
    max_calls: int = MAX_CALLS,
    observe: Observe | None = None,
    shared: bool = False,
) -> Listener:
    """Make the listener that the gateway uses, and operators where there is a servicer for them."""

    def register(server: grpc.aio.Server) -> None:
        fulfillment_service_pb2_grpc.add_FulfillmentServiceServicer_to_server(servicer, server)
        if admin is not None:
            admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)

    return Listener(
        INTERNAL_SERVICE,
        register,
        gate=gate,
        credentials=credentials,
        beside=() if admin is None else (ADMIN_SERVICE,),
        max_calls=max_calls,
        observe=observe,
        shared=shared,
    )
