"""What the storefront is told by its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit


class SettingsError(Exception):
    """The environment does not say what the storefront needs; the message names the variable."""


@dataclass(frozen=True)
class Settings:
    """Where it listens, by which URL people reach it, and where the billing service is."""

    host: str
    port: int
    url: str  # without a slash at its end; success and cancel URLs are made from it
    billing_target: str  # host:port of the public gRPC listener
    billing_token: str | None = field(default=None, repr=False)  # None: it asks for none

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read STOREFRONT_ADDRESS (default 127.0.0.1:8000), STOREFRONT_URL (default: that address), STOREFRONT_BILLING_TARGET,
        STOREFRONT_BILLING_TOKEN (default: none).

        Raises:
            SettingsError: a value does not hold.
        """
        address = environment.get("STOREFRONT_ADDRESS", "127.0.0.1:8000")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise SettingsError(f"STOREFRONT_ADDRESS is to be host:port, not {address!r}")
        url = environment.get("STOREFRONT_URL", f"http://{address}").rstrip("/")
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
            raise SettingsError(f"STOREFRONT_URL is to be an absolute http or https URL, not {url!r}")
        target = environment.get("STOREFRONT_BILLING_TARGET", "127.0.0.1:50051")
        return cls(host, int(port), url, target, environment.get("STOREFRONT_BILLING_TOKEN") or None)
