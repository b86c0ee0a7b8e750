"""Certificates made by the test itself, and a listener of gRPC that speaks TLS with them and asks for a token."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from billing.v1 import billing_service_pb2_grpc

from billing_service.rpc.interceptors import BearerToken, CallLog, ErrorTranslation
from billing_service.rpc.layers import RequestDecoding

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not there"
)
_LIMIT_S = 30


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Whom one side believes, and who gives the other its certificates. For two days."""

    def __init__(self, folder: Path) -> None:
        """Make the authority's own certificate, in a folder that is made for it."""
        folder.mkdir()
        self._folder = folder
        self.itself = Identity(folder / "ca.pem", folder / "ca.key")
        _openssl(
            "req",
            "-x509",
            *_new_key(self.itself.key, "Authority of the test"),
            "-days",
            "2",
            "-out",
            self.itself.certificate,
        )

    def issue(self, name: str, *alternatives: str) -> Identity:
        """Give a certificate for `name`, with alternative names like "DNS:billing.internal" and "IP:127.0.0.1"."""
        one = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(
            f"basicConstraints=CA:FALSE\nsubjectAltName={','.join(alternatives or (f'DNS:{name}',))}\n"
        )
        _openssl("req", *_new_key(one.key, name), "-out", request)
        ours = ("-CA", self.itself.certificate, "-CAkey", self.itself.key, "-CAcreateserial")
        _openssl("x509", "-req", "-in", request, *ours, "-days", "2", "-extfile", extensions, "-out", one.certificate)
        return one


def _new_key(key: Path, name: str) -> tuple[str | Path, ...]:
    return (
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        key,
        "-subj",
        f"/CN={name}",
    )


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    assert done.returncode == 0, done.stderr


@asynccontextmanager
async def secured(
    servicer: Any, identity: Identity, *, tokens: Collection[str], clients: Authority | None = None
) -> AsyncIterator[str]:
    """Serve over TLS, behind the service's own check of tokens, and give the address.

    With `clients` it is mutual TLS: only who shows a certificate of that authority is talked to.
    """
    server = grpc.aio.server(interceptors=[CallLog(), ErrorTranslation(), BearerToken(tokens), RequestDecoding()])
    billing_service_pb2_grpc.add_BillingServiceServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials(
        [(identity.key.read_bytes(), identity.certificate.read_bytes())],
        root_certificates=clients.itself.certificate.read_bytes() if clients else None,
        require_client_auth=clients is not None,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
