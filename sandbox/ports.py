"""Ports on the loopback."""

from __future__ import annotations

import socket

from sandbox.errors import SandboxError

HOST = "127.0.0.1"


def free_port() -> int:
    """Give a port that is free now. Whoever binds it later may still be too late; so try again on another."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Say whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(what: str, port: int) -> None:
    """Refuse a port that is in use.

    Raises:
        SandboxError: naming the port, and how to choose others.
    """
    if not is_free(port):
        raise SandboxError(
            f"Port {port} on {HOST}, meant for {what}, is in use; stop what uses it, or choose other ports "
            f"with `python -m sandbox --ports 20000` (from there on) or `--ports 0` (any free ones)."
        )
