"""TLS of a listener, with certificates that may change while it listens."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from billing_service.certificates import Certificates


def server_credentials(current: Callable[[], Certificates]) -> grpc.ServerCredentials:
    """Make credentials that ask at each handshake for the certificates of the moment.

    Where there are authorities for clients, everybody must show a certificate of theirs, health checks too: Python's
    gRPC knows no "if you have one". Connections that stand are not asked again; `server` bounds their age.
    """
    serving = _Serving(current)
    return grpc.dynamic_ssl_server_credentials(
        serving.first(),
        serving.changed,  # type: ignore[arg-type]  # None says that nothing changed (grpc.dynamic_ssl_server_credentials)
        require_client_authentication=current().client_ca is not None,
    )


class _Serving:
    """Says which certificates the handshakes have, so that they are loaded once for each change."""

    def __init__(self, current: Callable[[], Certificates]) -> None:
        self._current = current
        self._known = current()

    def first(self) -> grpc.ServerCertificateConfiguration:
        return _configuration(self._known)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Give what is new; None where nothing is. gRPC calls this from threads of its own, one at a time."""
        current = self._current()
        if current is self._known:
            return None
        self._known = current
        return _configuration(current)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=certificates.client_ca)
