"""Certificates in files, and the service's own listener over TLS with tokens in front of a servicer of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from billing_service.access import Credentials, Identity, Role
from billing_service.address import Address
from billing_service.rpc.guard import Gate
from billing_service.rpc.server import public_listener
from tests import certificates


@dataclass(frozen=True)
class Files:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Whom one side believes, and who gives the other its certificates."""

    def __init__(self, folder: Path) -> None:
        """Make the authority's own certificate, in a folder that is made for it."""
        folder.mkdir()
        self._folder = folder
        self._authority = certificates.Authority(f"authority {folder.name}")
        self.certificate = certificates.put(folder / "ca.pem", self._authority.pem)

    def issue(self, name: str, *, addresses: Collection[str] = ()) -> Files:
        """Give a certificate for a name, and for IP addresses."""
        made = self._authority.sign(name, addresses=addresses)
        return Files(*made.write(self._folder, name))


@asynccontextmanager
async def secured(
    servicer: Any, files: Files, *, tokens: Collection[str], clients: Authority | None = None
) -> AsyncIterator[str]:
    """Serve over TLS, behind the service's own guard, and give the address.

    With `clients` it is mutual TLS: only who shows a certificate of that authority is talked to.
    """
    known = Credentials().with_tokens(Identity("test", Role.CALLER), tokens)
    credentials = grpc.ssl_server_credentials(
        [(files.key.read_bytes(), files.certificate.read_bytes())],
        root_certificates=clients.certificate.read_bytes() if clients else None,
        require_client_auth=clients is not None,
    )
    listener = public_listener(servicer, gate=Gate(lambda: known), credentials=credentials)
    address = await listener.start(Address("127.0.0.1", 0), "the test's address")
    await listener.set_serving(serving=True)
    try:
        yield str(address)
    finally:
        await listener.stop(0)
