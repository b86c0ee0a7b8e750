"""TLS towards the service, from files: whom to believe, and our own certificate where the service asks for one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class TlsFiles:
    """Where the certificates are, as PEM."""

    ca: Path | None
    certificate: Path | None  # ours, then its issuers
    key: Path | None


@dataclass(frozen=True)
class Tls:
    """What was in the files."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)


def read_tls(files: TlsFiles) -> Tls:
    """Read the files, and check that they hold together.

    Raises:
        ValueError: they cannot be read, are no PEM, or are not of each other; nothing of them is in the message.
    """
    read = _read(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if read.ca is not None:
            context.load_verify_locations(cadata=read.ca.decode("ascii"))
        if files.certificate is not None:
            # The empty password: an encrypted key is refused instead of asked about at the terminal.
            context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError):
        raise ValueError("the certificates are no PEM without password, or are not of their key") from None
    if read.ca is not None and not context.cert_store_stats()["x509"]:
        raise ValueError("the authorities are no certificates in PEM")
    if _read(files) != read:
        raise ValueError("the files changed while they were read")
    return read


def _read(files: TlsFiles) -> Tls:
    return Tls(*(None if path is None else read_bounded(path) for path in (files.ca, files.certificate, files.key)))


def read_bounded(path: Path) -> bytes:
    """Read a file of at most 1 MiB.

    Raises:
        ValueError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"a file cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("a file is larger than 1 MiB")
    return content
