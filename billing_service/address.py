"""Addresses to listen on: "host:port"."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

MAX_PORT = 65_535


class ListenError(Exception):
    """The service cannot listen where it was told to; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Address:
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as it is read; an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it; a name other than localhost may be anybody's."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Addresses:
    """Where a running service listens, with the ports that were taken."""

    grpc: Address
    internal: Address
    ops: Address


def parse_address(text: str) -> Address:
    """Read "host:port", the host an IPv4 address, a name, or an IPv6 address in brackets.

    Raises:
        ValueError: when it is none of these; the message says what is expected.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [::1]:50051")
    if not colon or not host or any(char.isspace() for char in host):
        raise ValueError("must be host:port, for example 127.0.0.1:50051")
    if not (port.isascii() and port.isdigit()) or int(port) > MAX_PORT:
        raise ValueError(f"the port must be a number from 0 to {MAX_PORT}")
    return Address(host, int(port))


def check_free(address: Address, setting: str) -> None:
    """Check that every IP address behind `address` can be listened on; gRPC is content with one of them, silently.

    Raises:
        ListenError: with one sentence that names the setting.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise ListenError(f"{setting}: the host of {address} is not known to this machine.") from None
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
                probe.bind(where)
                probe.listen(1)
        except OSError as error:
            raise ListenError(listen_problem(address, setting, error)) from None


def listen_problem(address: Address, setting: str, error: OSError) -> str:
    """Say in one sentence why an address cannot be listened on."""
    words = os.strerror(error.errno).lower() if error.errno else "it was refused"
    return f"{setting}: cannot listen on {address}: {words}. Stop what is there, or choose another address."
