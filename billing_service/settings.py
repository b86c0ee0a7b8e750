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

from billing_service.access import DIGEST_PREFIX, Credentials, Role, is_digest, parse_access
from billing_service.address import Address, parse_address
from billing_service.certificates import CertificateFiles, read_bounded, read_certificates
from billing_service.clock import read_offset

PREFIX: Final = "BILLING_"
SECRETS_DIR: Final = "BILLING_SECRETS_DIR"
MIN_TOKEN_CHARS: Final = 16
MAX_REDIRECT_HOSTS: Final = 100
MAX_WORKERS: Final = 64  # each takes connections of the database
MAX_DRAIN_DELAY_S: Final = 60
MAX_TOKENS: Final = 4  # one, and what it is being replaced by; more means that old ones are never taken out

_TOKEN = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # printable ASCII without space and comma
_DEPLOYMENT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_API_KEY = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*|[0-9a-f:.]+")  # a name or an IP address


class SettingsError(Exception):
    """The environment does not configure the service; `problems` has a line for each, naming the variable."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Take every problem, at least one; none with a value in it."""
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def _database_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError(
            "must be a PostgreSQL URL: postgresql://host:5432/database, with user and password before the host"
        )
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


def check_tokens(text: str) -> str:
    """Give a token, or several with commas between, as they are. Each may be its SHA-256 instead, as the access file has it.

    Raises:
        ValueError: one of them does not hold, or there are too many; no value is in the message.
    """
    tokens = text.split(",")
    if len(tokens) > MAX_TOKENS:
        raise ValueError(f"may have {MAX_TOKENS} tokens at most")
    for token in tokens:
        if len(token) < MIN_TOKEN_CHARS or not _TOKEN.fullmatch(token):
            raise ValueError(
                f"must be a token of at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces, "
                "or several of them with commas between; make one with: openssl rand -hex 24"
            )
        if token.startswith(DIGEST_PREFIX) and not is_digest(token):
            raise ValueError(f"must have 64 hex digits in lower case after {DIGEST_PREFIX}")
    return text


def _tokens(value: SecretStr) -> SecretStr:
    check_tokens(value.get_secret_value())
    return value


def _redirect_hosts(value: Any) -> Any:
    """Split "shop.example,account.example"; a setting of Python's own is a tuple already."""
    if not isinstance(value, str):
        return value
    hosts = tuple(host.strip().lower().rstrip(".") for host in value.split(","))
    if len(hosts) > MAX_REDIRECT_HOSTS or not all(_HOST.fullmatch(host) for host in hosts):
        raise ValueError(
            f"must be at most {MAX_REDIRECT_HOSTS} host names with commas between, without scheme, port and path"
        )
    return hosts


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


def read_access(file: Path) -> Credentials:
    """Read an access file.

    Raises:
        ValueError: it cannot be read, or lines of it do not hold.
    """
    try:
        return parse_access(read_bounded(file).decode())
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8 text") from None


def _address(value: Any) -> Any:
    return parse_address(value) if isinstance(value, str) else value


_Listen = Annotated[Address, NoDecode, BeforeValidator(_address)]  # NoDecode: a text, not JSON


class EnvironmentSettings(BaseSettings):
    """What every command reads alike."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # VARIABLE= in a compose file means that it is not set
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        extra="ignore",
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class DatabaseSettings(EnvironmentSettings):
    """What `billing-service migrate` needs."""

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]


class ImpactSettings(DatabaseSettings):
    """What `billing-service catalog impact` needs."""

    sandbox_clock: Path | None = None  # as the service's own: it compares at the sandbox's time


class StripeSettings(EnvironmentSettings):
    """What the commands need that look after the Stripe account and nothing else."""

    stripe_api_key: Annotated[SecretStr, AfterValidator(_api_key)]
    stripe_api_base: str = "https://api.stripe.com"
    deployment: Annotated[str, AfterValidator(_deployment)] = "default"

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

    def livemode(self) -> bool | None:
        """Say whether the API key is a live one; None where it does not tell."""
        key = self.stripe_api_key.get_secret_value()
        return True if "_live_" in key else False if "_test_" in key else None


class RepairSettings(StripeSettings, DatabaseSettings):
    """What `billing-service reconcile` and `replay` need: nothing of listeners, which they have none of."""

    catalog: Annotated[Path, AfterValidator(_readable_file)]
    stripe_background_rate: float = Field(default=10.0, gt=0, le=100)  # requests a second, of all processes together
    sandbox_clock: Path | None = None  # the file of the clock that the sandbox's service and stand-in Stripe share

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


class Settings(RepairSettings):
    """What `billing-service serve` needs; each is the environment variable BILLING_ + its name in capitals."""

    insecure_listen: bool = False  # whether listeners may be reached from other machines without TLS or credentials
    insecure_ops: bool = False  # whether the page for operators may, which never has either
    access_file: Annotated[Path, AfterValidator(_readable_file)] | None = None
    tls_client_ca: Annotated[Path, AfterValidator(_readable_file)] | None = None
    tls_key: Annotated[Path, AfterValidator(_readable_file)] | None = None
    tls_certificate: Annotated[Path, AfterValidator(_readable_file)] | None = None
    grpc_address: _Listen = Field(default=Address("127.0.0.1", 50051))
    internal_address: _Listen = Field(default=Address("127.0.0.1", 50052))
    ops_address: _Listen = Field(default=Address("127.0.0.1", 9091))
    internal_token: Annotated[SecretStr, AfterValidator(_tokens)] | None = None
    drain_delay_s: float = Field(default=1, ge=0, le=MAX_DRAIN_DELAY_S)  # from "not ready" to taking no more calls
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)  # processes on the same addresses
    redirect_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_redirect_hosts)] = ()
    read_database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = None
    read_max_staleness_ms: int = Field(default=1_000, ge=200, le=60_000)  # of what the former answers
    reload_interval_s: float = Field(default=10.0, ge=0.05, le=300)  # between two looks at the files above
    payload_retention_days: int = Field(default=90, ge=31, le=3_650)  # Stripe lists its events for 30
    event_retention_days: int = Field(default=400, ge=31, le=3_650)
    history_retention_days: int = Field(default=800, ge=31, le=36_500)  # two years and the time to ask about them
    reconcile_interval_s: float = Field(default=300.0, ge=1, le=86_400)

    @field_validator("event_retention_days")
    @classmethod
    def _check_event_retention(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("payload_retention_days", value):
            raise ValueError(f"must not be less than {PREFIX}PAYLOAD_RETENTION_DAYS")
        return value

    @field_validator("access_file")
    @classmethod
    def _check_access(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_access(value)
        return value

    @field_validator("tls_certificate")
    @classmethod
    def _check_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if not {"tls_key", "tls_client_ca"} <= info.data.keys():
            return value  # named already
        key, client_ca = info.data["tls_key"], info.data["tls_client_ca"]
        if value is None and (key or client_ca):
            raise ValueError(f"is needed with {PREFIX}TLS_KEY and {PREFIX}TLS_CLIENT_CA")
        if value is not None and key is None:
            raise ValueError(f"needs {PREFIX}TLS_KEY beside it")
        if value is not None:
            read_certificates(CertificateFiles(value, key, client_ca))
        return value

    @field_validator("grpc_address", "internal_address")
    @classmethod
    def _check_exposure(cls, value: Address, info: ValidationInfo) -> Address:
        if value.is_loopback or info.data.get("insecure_listen"):
            return value
        needed = ["tls_certificate", *(["access_file"] if info.field_name == "grpc_address" else [])]
        # One that is set and does not hold is not in there, and named by itself.
        missing = " and ".join(f"{PREFIX}{name.upper()}" for name in needed if info.data.get(name, value) is None)
        if missing:
            raise ValueError(
                f"is reachable from other machines, and needs {missing}; or set {PREFIX}INSECURE_LISTEN=true where "
                "the network lets only your own programs through and encrypts by itself"
            )
        return value

    @field_validator("ops_address")
    @classmethod
    def _check_ops_exposure(cls, value: Address, info: ValidationInfo) -> Address:
        if not value.is_loopback and not (info.data.get("insecure_ops") or info.data.get("insecure_listen")):
            raise ValueError(
                f"is reachable from other machines, and asks nobody who they are; set {PREFIX}INSECURE_OPS=true where the "
                "network lets only your own orchestrator and monitoring through"
            )
        return value

    @field_validator("internal_token")
    @classmethod
    def _check_gateway(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Somebody must be able to bring events."""
        if value is None and "access_file" in info.data:
            file = info.data["access_file"]
            certified = info.data.get("tls_client_ca") is not None  # nobody can show a certificate otherwise
            if file is None or not read_access(file).have(Role.GATEWAY, by_certificate=certified):
                raise ValueError("is not set")
        return value

    @field_validator("internal_address", "ops_address")
    @classmethod
    def _check_distinct(cls, value: Address, info: ValidationInfo) -> Address:
        for other in ("grpc_address", "internal_address"):
            if other != info.field_name and value.port and info.data.get(other) == value:
                raise ValueError(f"must not be the same as {PREFIX}{other.upper()}")
        return value

    def internal_tokens(self) -> tuple[str, ...]:
        """Give the tokens of which the gateway must show one, each as it is shown or as it is kept."""
        return () if self.internal_token is None else tuple(self.internal_token.get_secret_value().split(","))

    def internal_token_file(self) -> Path | None:
        """Give the file in the folder of secrets from which the tokens came; None where it was the environment."""
        folder = os.environ.get(SECRETS_DIR)
        name = f"{PREFIX}INTERNAL_TOKEN"
        if self.internal_token is None or not folder or os.environ.get(name):
            return None
        file = Path(folder, name.lower())
        return file if file.is_file() else None

    def certificate_files(self) -> CertificateFiles | None:
        """Give the files of the listeners' TLS; None where it is not wanted."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return CertificateFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)


_Settings = TypeVar("_Settings", bound=EnvironmentSettings)


_NOT_SET: Final = "is not set"
# The required ones that are secrets.
_IN_FOLDER: Final = frozenset({"database_url", "stripe_api_key", "internal_token"})


def load_settings(kind: type[_Settings]) -> _Settings:
    """Read the settings of a command from the environment.

    Raises:
        SettingsError: something is missing or does not hold; all of it is named.
    """
    folder = os.environ.get(SECRETS_DIR) or None
    is_lost = folder is not None and not Path(folder).is_dir()
    problems = [f"{SECRETS_DIR}: must be the path of a folder that exists"] if is_lost else []
    try:
        loaded = kind(_secrets_dir=None if is_lost else folder)  # type: ignore[call-arg]  # taken by BaseSettings, which subclasses hide
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        lines = [(str(e["loc"][0]), _line(str(e["loc"][0]), e["type"], e["msg"])) for e in found]
        # What may stand in the folder that is not there is not said to be missing.
        problems += [line for name, line in lines if not (is_lost and name in _IN_FOLDER and line.endswith(_NOT_SET))]
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return loaded


def _line(field: str, kind: str, message: str) -> str:
    said = _NOT_SET if kind == "missing" else message.removeprefix("Value error, ")
    return f"{PREFIX}{field.upper()}: {said}"
