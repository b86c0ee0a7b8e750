"""The service's settings, from the environment (BILLING_...), or from a folder of files of the same names in lower case
(BILLING_SECRETS_DIR, as Docker and Kubernetes mount secrets). Every problem is reported at once, and no value is ever shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import psycopg.conninfo
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from billing_service.address import Address, parse_address
from billing_service.clock import read_offset

PREFIX: Final = "BILLING_"
SECRETS_DIR: Final = "BILLING_SECRETS_DIR"
MIN_TOKEN_CHARS: Final = 16
MAX_TOKENS: Final = 4  # one, and what it is being replaced by; more means that old ones are never taken out

_TOKEN = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # printable ASCII without space and comma
_DEPLOYMENT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_API_KEY = re.compile(r"[\x21-\x7e]+")


class SettingsError(Exception):
    """The environment does not configure the service; `problems` has a line for each, naming the variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Take every problem, at least one; none with a value in it."""
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def _database_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must be a PostgreSQL URL: postgresql://user:password@host:5432/database")
    try:
        psycopg.conninfo.conninfo_to_dict(text)
    except psycopg.ProgrammingError:  # its text quotes the URL, and so the password
        raise ValueError("is not a URL that PostgreSQL's libpq understands") from None
    return value


def _api_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not _API_KEY.fullmatch(text):
        raise ValueError("must be a Stripe API key: printable ASCII without spaces")
    if text.startswith(("pk_", "whsec_")):
        raise ValueError(
            "must be a secret or restricted API key (sk_..., rk_...), not a publishable key or webhook secret"
        )
    return value


def _tokens(value: SecretStr) -> SecretStr:
    tokens = value.get_secret_value().split(",")
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"may have {MAX_TOKENS} tokens at most")
    for token in tokens:
        if len(token) < MIN_TOKEN_CHARS or not _TOKEN.fullmatch(token):
            raise ValueError(
                f"must be a token of at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces, "
                "or several of them with commas between; make one with: openssl rand -hex 24"
            )
    return value


def _deployment(value: str) -> str:
    if not _DEPLOYMENT.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes or underscores")
    return value


def _readable_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError("must be the path of a file that exists")
    if not os.access(value, os.R_OK):
        raise ValueError("must be a file that this program may read")
    return value


def _address(value: Any) -> Any:
    return parse_address(value) if isinstance(value, str) else value


_Listen = Annotated[Address, NoDecode, BeforeValidator(_address)]  # NoDecode: a text, not JSON


class DatabaseSettings(BaseSettings):
    """What `billing-service migrate` needs."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # VARIABLE= in a compose file means that it is not set
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        extra="ignore",
    )

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Settings(DatabaseSettings):
    """What `billing-service serve` needs; each is the environment variable BILLING_ + its name in capitals."""

    stripe_api_key: Annotated[SecretStr, AfterValidator(_api_key)]
    stripe_api_base: str = "https://api.stripe.com"
    catalog: Annotated[Path, AfterValidator(_readable_file)]
    deployment: Annotated[str, AfterValidator(_deployment)] = "default"
    insecure_listen: bool = False  # whether callers without a credential may come from other machines
    grpc_address: _Listen = Field(default=Address("127.0.0.1", 50051))
    internal_address: _Listen = Field(default=Address("127.0.0.1", 50052))
    ops_address: _Listen = Field(default=Address("127.0.0.1", 9091))
    internal_token: Annotated[SecretStr, AfterValidator(_tokens)]
    stripe_background_rate: float = Field(default=10.0, gt=0, le=100)  # requests a second, of all processes together
    reconcile_interval_s: float = Field(default=300.0, ge=1, le=86_400)
    sandbox_clock: Path | None = None  # the file of the clock that the sandbox's service and stand-in Stripe share

    @field_validator("stripe_api_base")
    @classmethod
    def _check_api_base(cls, value: str, info: ValidationInfo) -> str:
        try:
            parts = urlsplit(value)
        except ValueError:
            raise ValueError("must be a URL, for example https://api.stripe.com") from None
        if parts.scheme not in {"https", "http"} or not parts.hostname or "@" in parts.netloc:
            raise ValueError("must be a URL, for example https://api.stripe.com")
        key: SecretStr | None = info.data.get("stripe_api_key")
        if parts.scheme == "http" and key is not None and "_live_" in key.get_secret_value():
            raise ValueError("must begin with https:// when the API key is a live one")
        return value

    @field_validator("sandbox_clock")
    @classmethod
    def _check_sandbox_clock(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        key: SecretStr | None = info.data.get("stripe_api_key")
        if value is None:
            return None
        if key is not None and key.get_secret_value().startswith(("sk_live", "rk_live")):
            raise ValueError("must not be set with a live API key: real customers live in real time")
        try:
            read_offset(value)
        except OSError:
            raise ValueError("must be a file that this program may read, or that does not exist yet") from None
        return value

    @field_validator("grpc_address")
    @classmethod
    def _check_exposure(cls, value: Address, info: ValidationInfo) -> Address:
        if not value.is_loopback and not info.data.get("insecure_listen"):
            raise ValueError(
                "is reachable from other machines, and callers need no credential yet; "
                f"set {PREFIX}INSECURE_LISTEN=true where the network lets only your own programs through"
            )
        return value

    @field_validator("internal_address", "ops_address")
    @classmethod
    def _check_distinct(cls, value: Address, info: ValidationInfo) -> Address:
        for other in ("grpc_address", "internal_address"):
            if other != info.field_name and value.port and info.data.get(other) == value:
                raise ValueError(f"must not be the same as {PREFIX}{other.upper()}")
        return value

    def internal_tokens(self) -> tuple[str, ...]:
        """Give the tokens of which the gateway must show one."""
        return tuple(self.internal_token.get_secret_value().split(","))


_Settings = TypeVar("_Settings", bound=DatabaseSettings)


def load_settings(kind: type[_Settings]) -> _Settings:
    """Read the settings of a command from the environment.

    Raises:
        SettingsError: something is missing or does not hold; all of it is named.
    """
    folder = os.environ.get(SECRETS_DIR) or None
    if folder is not None and not Path(folder).is_dir():
        raise SettingsError([f"{SECRETS_DIR}: must be the path of a folder that exists"])
    try:
        return kind(_secrets_dir=folder)  # type: ignore[call-arg]  # taken by BaseSettings, which subclasses hide
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise SettingsError([_line(str(e["loc"][0]), e["type"], e["msg"]) for e in found]) from None


def _line(field: str, kind: str, message: str) -> str:
    said = "is not set" if kind == "missing" else message.removeprefix("Value error, ")
    return f"{PREFIX}{field.upper()}: {said}"
