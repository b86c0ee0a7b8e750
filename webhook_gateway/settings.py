"""The gateway's settings, from the environment (GATEWAY_...), or from a folder of files of the same names in lower case
(GATEWAY_SECRETS_DIR, as Docker and Kubernetes mount secrets). Every problem is reported at once, and no value is ever shown.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from webhook_gateway.signature import NamedSecret

_PREFIX: Final = "GATEWAY_"
_SECRETS_DIR: Final = "GATEWAY_SECRETS_DIR"
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


def _check_secrets(text: SecretStr) -> SecretStr:
    parse_secrets(text.get_secret_value())
    return text


def _check_token(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]+", token.get_secret_value()):
        raise ValueError(
            "must be the token of the service's internal listener: one of them, printable ASCII without space and comma"
        )
    return token


class Settings(BaseSettings):
    """What the gateway needs to know; each is the environment variable GATEWAY_ + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,  # VARIABLE= in a compose file means that it is not set
        frozen=True,
        hide_input_in_errors=True,
        extra="ignore",
    )

    address: Annotated[str, AfterValidator(_check_address)] = "127.0.0.1:8080"
    fulfillment_target: Annotated[str, AfterValidator(_check_address)] = "127.0.0.1:50052"
    internal_token: Annotated[SecretStr, AfterValidator(_check_token)]
    webhook_secrets: Annotated[SecretStr, AfterValidator(_check_secrets)]
    livemode: bool = False  # whether only live or only test events are taken
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    def named_secrets(self) -> tuple[NamedSecret, ...]:
        """Give the signing secrets, in the order of the setting."""
        return parse_secrets(self.webhook_secrets.get_secret_value())


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: something is missing or does not hold; all of it is named.
    """
    folder = os.environ.get(_SECRETS_DIR) or None
    if folder is not None and not Path(folder).is_dir():
        raise SettingsError(f"{_SECRETS_DIR}: must be the path of a folder that exists")
    try:
        return Settings(_secrets_dir=folder)  # type: ignore[call-arg]  # the environment gives the others
    except ValidationError as error:
        lines = [f"{_PREFIX}{str(e['loc'][0]).upper()}: {_say(e['type'], e['msg'])}" for e in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _say(kind: str, message: str) -> str:
    return "is not set" if kind == "missing" else message.removeprefix("Value error, ")
