"""Ports on the loopback: which program listens where, and what to say when one is taken."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass, fields
from typing import Self

from sandbox.errors import SandboxError

HOST = "127.0.0.1"
# Below the range from which the kernel takes the near ends of outgoing connections (32768 and up on Linux, 49152 on macOS):
# a port that was free when it was chosen is not lost to a passing connection before its server binds it.
_CHOICE = range(15_000, 32_000)
# "15000-20000": a part of it. Tests that run at the same time have one each: what one has chosen and not bound yet, none of the others takes.
PART = "SANDBOX_PORT_RANGE"
_CHOICE_ATTEMPTS = 200
_POLL_S = 0.05


@dataclass(frozen=True)
class Ports:
    """Where each program of the sandbox listens. The defaults are those of `make run`."""

    postgres: int = 54329
    stripe: int = 12111
    grpc: int = 50051
    internal: int = 50052
    ops: int = 9091
    gateway: int = 8080
    storefront: int = 8000
    gateway_ops: int = 9092
    traces: int = 4318

    @classmethod
    def choose(cls, base: int | None) -> Self:
        """Give the defaults (None), free ones (0), or those from `base` on.

        Raises:
            SandboxError: `base` leaves no room for all of them.
        """
        if base is None:
            return cls()
        if base == 0:
            return cls(*_distinct_free_ports(len(fields(cls))))
        if not 1 <= base <= 65_536 - len(fields(cls)):
            raise SandboxError(
                f"--ports takes 0 (any free ones) or a number from 1 to {65_536 - len(fields(cls))}, not {base}."
            )
        return cls(*range(base, base + len(fields(cls))))


def free_port() -> int:
    """Give a port that is free now. Whoever binds it may still come too late, though rarely."""
    choice = _choice()
    for _ in range(_CHOICE_ATTEMPTS):
        port = secrets.choice(choice)
        if is_free(port):
            return port
    raise SandboxError(f"No free port was found between {choice.start} and {choice.stop}.")


def part_of(number: int, count: int) -> str:
    """Give the part of all ports that are chosen from which the process of this number, of so many, is to have in `PART`."""
    size = len(_CHOICE) // count
    start = _CHOICE.start + number * size
    return f"{start}-{start + size}"


def _choice() -> range:
    part = os.environ.get(PART)
    return range(*map(int, part.split("-"))) if part else _CHOICE


def is_free(port: int) -> bool:
    """Say whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(what: str, port: int, *, patience_s: float = 0.0) -> None:
    """Refuse a port that is in use, and stays so for `patience_s` seconds.

    Raises:
        SandboxError: naming the port, and how to choose others.
    """
    deadline = time.monotonic() + patience_s
    while not is_free(port):
        if time.monotonic() >= deadline:
            raise SandboxError(
                f"Port {port} on {HOST}, meant for {what}, is in use; stop what uses it, or choose other ports with "
                f"`python -m sandbox --ports 20000` (from there on) or `--ports 0` (any free ones)."
            )
        time.sleep(_POLL_S)


def _distinct_free_ports(count: int) -> list[int]:
    chosen: dict[int, None] = {}
    for _ in range(_CHOICE_ATTEMPTS):
        chosen[free_port()] = None
        if len(chosen) == count:
            return list(chosen)
    raise SandboxError(f"{count} free ports were not found.")
