"""The gateway's settings, from the environment (GATEWAY_...), or from a folder of files of the same names in lower case
(GATEWAY_SECRETS_DIR, as Docker and Kubernetes mount secrets). Every problem is reported at once, and no value is ever shown.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from webhook_gateway.signature import NamedSecret
from webhook_gateway.tls import TlsFiles, read_tls

_PREFIX: Final = "GATEWAY_"
_SECRETS_DIR: Final = "GATEWAY_SECRETS_DIR"
MAX_DRAIN_DELAY_S: Final = 60
_MAX_TARGETS = 32
_MAX_SECRETS = 8  # each costs a signature of the whole body
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+):(?P<port>\d{1,5})")
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


class SettingsError(Exception):
    """The environment does not configure a gateway; the message has a line per problem."""


def split_address(address: str) -> tuple[str, int]:
    """Split host:port, or [v6]:port, into what a socket takes.

    Raises:
        ValueError: it is neither.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("must be host:port, like 127.0.0.1:8080 or [::1]:8080")
    return match["host"].strip("[]"), int(match["port"])


def parse_secrets(text: str) -> tuple[NamedSecret, ...]:
    """Read "name=whsec_...,name2=whsec_...".

    Raises:
        ValueError: with every problem, by the position of its entry, never by its text: that may be a secret.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    problems = [] if entries else ["must name at least one secret, as name=whsec_..."]
    if len(entries) > _MAX_SECRETS:
        problems.append(f"may name {_MAX_SECRETS} secrets at most")
    secrets = []
    for position, entry in enumerate(entries, start=1):
        name, _, secret = entry.partition("=")
        if not _NAME.fullmatch(name):
            problems.append(f"entry {position} must be name=whsec_..., its name of letters, digits and . _ -")
        elif not re.fullmatch(r"whsec_\S+", secret):
            problems.append(f"entry {position} must have a secret that starts with whsec_ (Stripe's signing secret)")
        secrets.append(NamedSecret(name, secret))
    if len({secret.name for secret in secrets}) < len(secrets):
        problems.append("must not use a name twice")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(secrets)


def _check_address(address: str) -> str:
    split_address(address)
    return address


def _check_targets(text: str) -> str:
    """One host:port; or several, with commas between, all of one version of IP, as gRPC takes them."""
    addresses = text.split(",")
    hosts = [split_address(address)[0] for address in addresses]
    if len(addresses) == 1:
        return text
    if (
        len(addresses) > _MAX_TARGETS
        or len({_ip_version(host) for host in hosts} - {None}) != 1
        or None in map(_ip_version, hosts)
    ):
        raise ValueError(
            f"may be several, {_MAX_TARGETS} at most, only where all are IP addresses of one version; otherwise give one "
            "name that resolves to all of them"
        )
    return text


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _check_file(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError("must be the path of a file that this program may read")
    return path


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_secrets(text: SecretStr) -> SecretStr:
    parse_secrets(text.get_secret_value())
    return text


def check_token(token: str) -> str:
    """Give a token as it is.

    Raises:
        ValueError: metadata could not carry it, or it is several.
    """
    if not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]+", token):
        raise ValueError(
            "must be the token of the service's internal listener: one of them, printable ASCII without space and comma"
        )
    return token


def _check_token(token: SecretStr) -> SecretStr:
    check_token(token.get_secret_value())
    return token


class Settings(BaseSettings):
    """What the gateway needs to know; each is the environment variable GATEWAY_ + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,  # VARIABLE= in a compose file means that it is not set
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        extra="ignore",
    )

    address: Annotated[str, AfterValidator(_check_address)] = "127.0.0.1:8080"
    insecure_ops: bool = False  # whether other machines may reach the metrics, which ask nobody who they are
    ops_address: Annotated[str, AfterValidator(_check_address)] | None = (
        None  # of the metrics; None: they are shown nowhere
    )
    tls_ca: Annotated[Path, AfterValidator(_check_file)] | None = None
    tls_key: Annotated[Path, AfterValidator(_check_file)] | None = None
    tls_certificate: Annotated[Path, AfterValidator(_check_file)] | None = None
    tls_server_name: str | None = None
    insecure_target: bool = False  # whether the service may be on another machine without TLS
    fulfillment_target: Annotated[str, AfterValidator(_check_targets)] = "127.0.0.1:50052"
    internal_token: Annotated[SecretStr, AfterValidator(_check_token)] | None = None
    reload_interval_s: float = Field(default=10.0, ge=0.05, le=300)  # between two looks at the files
    webhook_secrets: Annotated[SecretStr, AfterValidator(_check_secrets)]
    drain_delay_s: float = Field(default=0, ge=0, le=MAX_DRAIN_DELAY_S)  # from "not ready" to taking no more
    livemode: bool = False  # whether only live or only test events are taken
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("ops_address")
    @classmethod
    def _check_ops_exposure(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not info.data.get("insecure_ops") and not _is_loopback(split_address(value)[0]):
            raise ValueError(
                f"is reachable from other machines, and asks nobody who they are; set {_PREFIX}INSECURE_OPS=true where the "
                "network lets only your own monitoring through"
            )
        return value

    @field_validator("tls_ca")
    @classmethod
    def _check_ca(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_tls(TlsFiles(value, None, None))
        return value

    @field_validator("tls_certificate")
    @classmethod
    def _check_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_key" in info.data and (value is None) is not (info.data["tls_key"] is None):
            raise ValueError(f"and {_PREFIX}TLS_KEY need each other")
        if value is not None and info.data.get("tls_key") is not None:
            read_tls(TlsFiles(info.data.get("tls_ca"), value, info.data["tls_key"]))
        return value

    @field_validator("fulfillment_target")
    @classmethod
    def _check_target(cls, value: str, info: ValidationInfo) -> str:
        is_open = "tls_ca" in info.data and info.data["tls_ca"] is None and not info.data.get("insecure_target")
        if is_open and not all(_is_loopback(split_address(address)[0]) for address in value.split(",")):
            raise ValueError(
                f"is on another machine, and needs {_PREFIX}TLS_CA; or set {_PREFIX}INSECURE_TARGET=true where the "
                "network between the two encrypts by itself"
            )
        return value

    @field_validator("internal_token")
    @classmethod
    def _check_shown(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """The gateway must show something to the service."""
        if value is None and info.data.get("tls_certificate") is None:
            raise ValueError("is not set")
        return value

    def secret_file(self, field: str) -> Path | None:
        """Give the file in the folder of secrets from which a setting came; None where it was the environment."""
        folder, name = os.environ.get(_SECRETS_DIR), f"{_PREFIX}{field.upper()}"
        if not folder or os.environ.get(name):
            return None
        file = Path(folder, name.lower())
        return file if file.is_file() else None

    def target(self) -> str:
        """Give the service's addresses as gRPC names them."""
        if "," not in self.fulfillment_target:
            return self.fulfillment_target
        first, _ = split_address(self.fulfillment_target.split(",")[0])
        return f"ipv{_ip_version(first)}:{self.fulfillment_target}"

    def tls_files(self) -> TlsFiles | None:
        """Give the files of TLS towards the service; None for plain text."""
        return None if self.tls_ca is None else TlsFiles(self.tls_ca, self.tls_certificate, self.tls_key)

    def named_secrets(self) -> tuple[NamedSecret, ...]:
        """Give the signing secrets, in the order of the setting."""
        return parse_secrets(self.webhook_secrets.get_secret_value())


_NOT_SET: Final = "is not set"
_IN_FOLDER: Final = frozenset({"internal_token", "webhook_secrets"})


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: something is missing or does not hold; all of it is named.
    """
    folder = os.environ.get(_SECRETS_DIR) or None
    is_lost = folder is not None and not Path(folder).is_dir()
    problems = [f"{_SECRETS_DIR}: must be the path of a folder that exists"] if is_lost else []
    try:
        loaded = Settings(_secrets_dir=None if is_lost else folder)  # type: ignore[call-arg]  # the environment gives the others
    except ValidationError as error:
        found = [(str(e["loc"][0]), _say(e["type"], e["msg"])) for e in error.errors()]
        # What may stand in the folder that is not there is not said to be missing.
        named = [(name, said) for name, said in found if not (is_lost and name in _IN_FOLDER and said == _NOT_SET)]
        problems += [f"{_PREFIX}{name.upper()}: {said}" for name, said in named]
        raise SettingsError("\n".join(problems)) from None
    if problems:
        raise SettingsError("\n".join(problems))
    return loaded


def _say(kind: str, message: str) -> str:
    return _NOT_SET if kind == "missing" else message.removeprefix("Value error, ")
