"""Certificates of the tests' own making: authorities, and what they sign."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Put both into files, each whole at once as an orchestrator does; give their paths."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            put(path, content)
        return paths


def put(path: Path, content: bytes | str) -> Path:
    """Write a file so that nobody reads half of it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content if isinstance(content, bytes) else content.encode())
    return unfinished.rename(path)


class Authority:
    """Signs certificates for the names and addresses that they are asked for."""

    def __init__(self, name: str = "authority of the tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        made = self._builder(name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.pem = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(
        self,
        *names: str,
        common_name: str = "",
        ends_in: timedelta = _LIFE,
        addresses: Iterable[str] = ("127.0.0.1",),
    ) -> Pair:
        """Make a certificate with these alternative names (with none of them: with the common name alone)."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(common_name or names[0], key, ends_in)
        if names:
            reached = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            alternatives = x509.SubjectAlternativeName([*map(x509.DNSName, names), *reached])
            made = made.add_extension(alternatives, critical=False)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), secret)

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, ends_in: timedelta = _LIFE
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=_name(name),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - 2 * _LIFE,
            not_valid_after=now + ends_in,
        )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
