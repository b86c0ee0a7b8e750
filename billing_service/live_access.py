"""Who may call and with which certificates, as the settings' files say it at the moment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import grpc

from billing_service.access import Credentials, Identity, Role
from billing_service.certificates import CertificateFiles, Certificates, read_bounded, read_certificates
from billing_service.expiry import first_end, last_end
from billing_service.rpc.guard import OPEN, Gate
from billing_service.rpc.tls import server_credentials
from billing_service.settings import Settings, check_tokens, read_access
from billing_service.watched import Watch, Watched

INTERNAL_TOKEN: Final = Identity("internal-token", Role.GATEWAY)  # whoever shows BILLING_INTERNAL_TOKEN


class LiveAccess:
    """The gates of both listeners and their TLS. What its files say is taken while the program runs (`watch`)."""

    def __init__(self, settings: Settings) -> None:
        """Read the files a first time.

        Raises:
            ValueError: one of them has ceased to hold since the settings were checked.
        """
        access_file, files = settings.access_file, settings.certificate_files()
        self._named: Watched[Credentials] = Watched("BILLING_ACCESS_FILE", lambda: _named(access_file))
        self._internal: Watched[Credentials] = Watched(
            "BILLING_INTERNAL_TOKEN", lambda: _internal(settings.internal_token_file(), settings.internal_tokens())
        )
        self._tls: Watched[Certificates | None] = Watched("BILLING_TLS_CERTIFICATE", lambda: _certificates(files))
        self._is_open = access_file is None
        self._told = (self._named.current, self._internal.current)
        self._changed: list[Callable[[], None]] = []  # a handful, of the program's start
        self.watch = Watch((self._named, self._internal, self._tls), settings.reload_interval_s, self._tell)

    def when_changed(self, call: Callable[[], None]) -> None:
        """Have something called, on the loop of the watch, whenever others may pass than before."""
        self._changed.append(call)

    def _tell(self) -> None:
        current = (self._named.current, self._internal.current)
        if current != self._told:
            self._told = current
            for call in self._changed:
                call()

    def public_gate(self) -> Gate:
        """Give the gate for callers: open where no access file is set, which the settings allow on loopback alone or by word."""
        return OPEN if self._is_open else Gate(lambda: self._named.current)

    def internal_gate(self) -> Gate:
        """Give the gate for the gateway."""
        return Gate(self._known_inside)

    def credentials(self) -> grpc.ServerCredentials | None:
        """Give TLS for a listener; None where the settings name no certificate."""
        first = self._tls.current
        if first is None:
            return None
        return server_credentials(lambda: self._tls.current or first)

    def ends(self) -> Mapping[str, Callable[[], float]]:
        """Give what tells when our certificate and the clients' authorities end, by which of them, where there are any."""
        first = self._tls.current
        if first is None:
            return {}
        found = {"own": lambda: first_end((self._tls.current or first).chain)}
        if first.client_ca is not None:
            found["authorities"] = lambda: last_end((self._tls.current or first).client_ca or b"")
        return found

    def _known_inside(self) -> Credentials:
        named, internal = self._named.current, self._internal.current
        return Credentials((*named.tokens, *internal.tokens), named.certificates)


def _named(file: Path | None) -> Credentials:
    return Credentials() if file is None else read_access(file)


def _internal(file: Path | None, tokens: Collection[str]) -> Credentials:
    """Give the tokens of the environment, or of the file in the folder of secrets where they came from there."""
    if file is not None:
        try:
            tokens = check_tokens(read_bounded(file).decode().strip()).split(",")
        except UnicodeDecodeError:
            raise ValueError("must be ASCII text") from None
    return Credentials().with_tokens(INTERNAL_TOKEN, tokens)


def _certificates(files: CertificateFiles | None) -> Certificates | None:
    return None if files is None else read_certificates(files)
