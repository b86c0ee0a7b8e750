"""The listeners' certificates, from files. Read as bytes, and tried before anybody sees them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 1024 * 1024


class CertificateError(ValueError):
    """The files do not make a server's certificate; the message says which, and nothing of what is in them."""


@dataclass(frozen=True)
class CertificateFiles:
    """Where the certificates are, as PEM."""

    chain: Path  # ours, then its issuers
    key: Path
    client_ca: Path | None  # whose certificates callers must show; None: callers need none


@dataclass(frozen=True)
class Certificates:
    """What was in the files."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


def read_certificates(files: CertificateFiles) -> Certificates:
    """Read the files, and check that key and certificate belong together.

    Raises:
        CertificateError: a file cannot be read, is none of these, or they changed while they were read.
    """
    read = _read(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The empty password: an encrypted key is refused instead of asked about at the terminal.
        context.load_cert_chain(files.chain, files.key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError):
        raise CertificateError(
            "the certificate and the key do not belong together, or are no PEM without password"
        ) from None
    if read.client_ca is not None:
        _check_authorities(context, read.client_ca)
    if _read(files) != read:
        raise CertificateError("the files changed while they were read")
    return read


def _check_authorities(context: ssl.SSLContext, pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise CertificateError("the clients' authorities are no certificates in PEM") from None
    if not context.cert_store_stats()["x509"]:
        raise CertificateError("the clients' authorities are no certificates in PEM")


def _read(files: CertificateFiles) -> Certificates:
    client_ca = None if files.client_ca is None else read_bounded(files.client_ca)
    return Certificates(read_bounded(files.chain), read_bounded(files.key), client_ca)


def read_bounded(path: Path) -> bytes:
    """Read a file of at most 1 MiB.

    Raises:
        CertificateError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"a file cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise CertificateError("a file is larger than 1 MiB")
    return content
