"""Where the service is, and how it is talked to."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from billing.v1 import billing_service_pb2
from google.protobuf.descriptor_pb2 import MethodOptions

from billing_client import tracing

# For the answer to a ping. With `Options.keepalive` it is less than the 40 s after which a cache calls what it has stale.
KEEPALIVE_TIMEOUT_S = 10.0
MAX_ATTEMPTS = 4  # of a call that is safe to make again; gRPC allows 5
SERVICE = billing_service_pb2.DESCRIPTOR.services_by_name["BillingService"]
# `idempotency_level`: the contract's own word.
SAFE = frozenset({MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT})


@dataclass(frozen=True)
class TLS:
    """Certificates, as PEM. Paths are read each time a channel is made."""

    ca: Path | None = None  # whom to believe; None: the system's authorities
    certificate: Path | None = None  # one's own, with its chain, for mutual TLS
    key: Path | None = None
    server_name: str | None = None  # what the certificate says, where it is not the address

    def credentials(self) -> grpc.ChannelCredentials:
        """Give what gRPC wants.

        Raises:
            OSError: a file cannot be read.
        """
        ca, key, chain = (path.read_bytes() if path else None for path in (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(ca, key, chain)


@dataclass(frozen=True)
class Options:
    """How to reach the service.

    Several IP addresses, or one name with several address records, share the calls in turn; one that does not answer is
    left out until it does.
    """

    addresses: Sequence[str]  # "host:port"; either one, or several with IP addresses for hosts
    # A callable is asked at each call: rotation.
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    tls: TLS | None = None  # None: plain text, for loopback and meshes that encrypt by themselves
    timeout: timedelta = timedelta(seconds=10)  # of a call that says none
    keepalive: timedelta = timedelta(seconds=20)  # between pings on a quiet connection; the service wants 10 s at least
    max_message_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        """Check the addresses.

        Raises:
            ValueError: there is none, or several that are not IP addresses.
        """
        if isinstance(self.addresses, str) or not self.addresses:
            raise ValueError('addresses is a list with at least one "host:port"')
        for address in self.addresses:
            host, colon, port = address.rpartition(":")
            if not colon or not host or not port.isdecimal():
                raise ValueError(f"{address!r} is not host:port")

    @property
    def target(self) -> str:
        """Give gRPC's name for the addresses.

        Raises:
            ValueError: several addresses, and not all of one IP version.
        """
        if len(self.addresses) == 1 and _version(self.addresses[0]) is None:
            return f"dns:///{self.addresses[0]}"
        versions = {_version(address) for address in self.addresses}
        if len(versions) != 1 or None in versions:
            raise ValueError(
                "several addresses must be IP addresses of one version; "
                "otherwise give one name that resolves to all of them"
            )
        return f"ipv{versions.pop()}:{','.join(self.addresses)}"

    def arguments(self, *, follow_health: bool = True) -> list[tuple[str, Any]]:
        """Give the channel's arguments. `follow_health`: the channel is to a listener that serves BillingService."""
        name = self.tls.server_name if self.tls else None
        return [
            ("grpc.service_config", json.dumps(service_config(follow_health=follow_health))),
            ("grpc.enable_retries", 1),
            ("grpc.keepalive_time_ms", int(self.keepalive.total_seconds() * 1000)),
            # Of what the peer's machine does not acknowledge; where a proxy does that for it, the next one counts, a minute by default.
            ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
            # Each of them, also where nothing is sent between: gRPC's own would be one a minute after the second, too few for what
            # forgets a connection that is quiet. The stream that follows health is a call, so an idle client's connection is kept up too.
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            *([("grpc.ssl_target_name_override", name)] if name else []),
        ]

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Give what goes with each call: the token, asked for anew, and the trace that the call is in."""
        token = self.token() if callable(self.token) else self.token
        return (*((("authorization", f"Bearer {token}"),) if token else ()), *tracing.metadata())


def service_config(*, follow_health: bool = True) -> dict[str, Any]:
    """Give gRPC's service config: calls in turn over all addresses, and again only what the contract calls safe.

    Those are the methods that are marked NO_SIDE_EFFECTS or IDEMPOTENT (by their request id), and only after UNAVAILABLE.
    Retries stop by themselves while the service as a whole fails (retryThrottling).
    """
    safe = [
        {"service": SERVICE.full_name, "method": method.name}
        for method in SERVICE.methods
        if method.GetOptions().idempotency_level in SAFE and not method.server_streaming
    ]
    policy = {
        "maxAttempts": MAX_ATTEMPTS,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Each process says whether it serves: one that is about to stop gets no more calls, and cancels none.
        **({"healthCheckConfig": {"serviceName": SERVICE.full_name}} if follow_health else {}),
        "methodConfig": [{"name": safe, "retryPolicy": policy}],
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
    }


def _version(address: str) -> int | None:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None
