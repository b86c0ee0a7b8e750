"""The gateway's secrets and certificates, as the files of the settings say it at the moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from webhook_gateway.expiry import first_end, last_end
from webhook_gateway.settings import Settings, check_token, parse_secrets
from webhook_gateway.signature import NamedSecret
from webhook_gateway.tls import Tls, read_bounded, read_tls
from webhook_gateway.watched import Watch, Watched

Value = TypeVar("Value")


class LiveSecrets:
    """What the gateway shows and checks. What came from files is taken anew while the program runs (`watch`)."""

    def __init__(self, settings: Settings) -> None:
        """Read the files a first time.

        Raises:
            ValueError: one of them has ceased to hold since the settings were checked.
        """
        files = settings.tls_files()
        token = settings.internal_token.get_secret_value() if settings.internal_token else None
        self._secrets: Watched[tuple[NamedSecret, ...]] = Watched(
            "GATEWAY_WEBHOOK_SECRETS",
            _reader(settings.secret_file("webhook_secrets"), parse_secrets, settings.named_secrets()),
        )
        self._token: Watched[str | None] = Watched(
            "GATEWAY_INTERNAL_TOKEN", _reader(settings.secret_file("internal_token"), check_token, token)
        )
        self._tls: Watched[Tls | None] = Watched("GATEWAY_TLS_CA", lambda: None if files is None else read_tls(files))
        self.watch = Watch((self._secrets, self._token, self._tls), settings.reload_interval_s)

    def secrets(self) -> tuple[NamedSecret, ...]:
        """Give the signing secrets."""
        return self._secrets.current

    def token(self) -> str | None:
        """Give the token to show to the service; None where a certificate does."""
        return self._token.current

    def tls(self) -> Tls | None:
        """Give the certificates; None for plain text."""
        return self._tls.current

    def ends(self) -> Mapping[str, Callable[[], float]]:
        """Give what tells when our certificate and the authorities end, by which of them, where there are any."""
        first = self._tls.current
        found: dict[str, Callable[[], float]] = {}
        if first is not None and first.certificate is not None:
            found["own"] = lambda: first_end((self._tls.current or first).certificate or b"")
        if first is not None and first.ca is not None:
            found["authorities"] = lambda: last_end((self._tls.current or first).ca or b"")
        return found


def _reader(file: Path | None, parse: Callable[[str], Value], fixed: Value) -> Callable[[], Value]:
    """Give what reads a file, or the fixed value where it came from the environment."""

    def read() -> Value:
        if file is None:
            return fixed
        try:
            text = read_bounded(file).decode()
        except UnicodeDecodeError:
            raise ValueError("must be UTF-8 text") from None
        return parse(text.strip())

    return read
