"""What the sandbox consists of: PostgreSQL, the stand-in Stripe, the billing service, the webhook gateway, the storefront."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.folder import Secrets, keep_secrets, write_private_text
from sandbox.ports import HOST, Ports, require_free
from sandbox.postgres import EmbeddedPostgres
from sandbox.processes import Child, answers

DEPLOYMENT = "sandbox"
_DATABASE = "billing"
_PATIENCE_S = 15.0  # what was killed with its launcher has been told to stop, and does within seconds


def _never() -> bool:
    return False


def _entry(name: str, role: str, token: str) -> str:
    """Give the line of the access file for a token."""
    return f"token {name} {role} sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"


@dataclass(frozen=True)
class Plan:
    """How a sandbox is to be: where its state lives, where it listens, what it sells, and whether it has a storefront."""

    folder: Path
    ports: Ports
    catalog: Path
    storefront: bool = True
    traces: bool = False  # whether everything is traced, and shown
    postgres_settings: Mapping[str, str] = field(default_factory=dict)
    service_settings: Mapping[str, str] = field(default_factory=dict)  # beside what every sandbox gives it


class Stack:
    """The programs, each of which can also be stopped and started by itself (tests do)."""

    def __init__(self, plan: Plan) -> None:
        """Prepare everything; nothing runs before `start`."""
        self._plan = plan
        self._ports = plan.ports
        self.secrets: Secrets = keep_secrets(plan.folder)
        self.postgres = EmbeddedPostgres(
            plan.folder / "postgres", port=plan.ports.postgres, settings=plan.postgres_settings
        )
        self.stripe = self._stripe()
        self.gateway = self._gateway()
        self.storefront = self._storefront()
        self.traces = self._traces()
        self._service: Child | None = None

    @property
    def service(self) -> Child:
        """The billing service; known once the database is.

        Raises:
            SandboxError: the stack was not started.
        """
        if self._service is None:
            raise SandboxError("The billing service was not started yet.")
        return self._service

    @property
    def running_file(self) -> Path:
        """The file that holds the addresses while the sandbox runs; there at the start, it tells of a run that was killed."""
        return self._plan.folder / "running.json"

    @property
    def _access_file(self) -> Path:
        return self._plan.folder / "access"

    @property
    def database_url(self) -> str:
        """The libpq URL of the service's database."""
        return self.postgres.url(_DATABASE)

    @property
    def children(self) -> tuple[Child, ...]:
        """The programs but PostgreSQL, in the order in which they start."""
        service = (self._service,) if self._service else ()
        storefront = (self.storefront,) if self._plan.storefront else ()
        return (*((self.traces,) if self._plan.traces else ()), self.stripe, *service, self.gateway, *storefront)

    # --- Start and stop ----------------------------------------------------------------------------------------------

    def start(self, give_up: Callable[[], bool] = _never) -> None:
        """Start everything and come back when each answers, or when `give_up` says so.

        Raises:
            SandboxError: something does not start.
        """
        self._require_free_ports()
        self.running_file.touch(mode=0o600)  # empty until everything answers
        self.postgres.start()
        self.postgres.ensure_database(_DATABASE)
        self._name_callers()
        self._service = self._billing_service()
        migration = Child("migration", ["billing_service", "migrate"], environment=self.service_environment())
        migration.start()
        try:
            migration.wait_done(give_up)
        finally:
            migration.stop()
        # The stand-in first, so that the service finds its prices; the gateway's readiness asks for the service.
        for child in self.children:
            if give_up():
                return
            child.start()
            child.wait_ready(give_up)

    def _name_callers(self) -> None:
        """Write who may call the service, and the tokens for people to try it with."""
        kept = self.secrets
        lines = [_entry("sandbox", "caller", kept.grpc_token), _entry("operator", "admin", kept.admin_token)]
        write_private_text(self._access_file, "".join(lines))
        write_private_text(self._plan.folder / "grpc_token", kept.grpc_token)
        write_private_text(self._plan.folder / "admin_token", kept.admin_token)

    def _require_free_ports(self) -> None:
        """Look before anything starts. What a killed run left is given time to go; PostgreSQL sees to its own port."""
        patience_s = _PATIENCE_S if self.running_file.exists() else 0.0
        ports = {
            "the stand-in Stripe": self._ports.stripe,
            "the billing service": self._ports.grpc,
            "the billing service's internal listener": self._ports.internal,
            "the billing service's health page": self._ports.ops,
            "the webhook gateway": self._ports.gateway,
            "the webhook gateway's metrics": self._ports.gateway_ops,
            **({"the traces": self._ports.traces} if self._plan.traces else {}),
            **({"the storefront": self._ports.storefront} if self._plan.storefront else {}),
        }
        for what, port in ports.items():
            require_free(what, port, patience_s=patience_s)

    def stop(self) -> None:
        """Stop everything: whoever takes requests first, the database last."""
        for child in reversed(self.children):
            child.stop()
        self.postgres.stop()

    def obituary(self) -> str | None:
        """Say which program ended, with its last lines; None while all run."""
        process = self.postgres.process
        if process is not None and process.poll() is not None:
            return f"PostgreSQL ended (exit code {process.poll()}); its last lines:\n{self.postgres.last_log_lines()}"
        return next((child.obituary() for child in self.children if child.poll() is not None), None)

    # --- Where everything is -----------------------------------------------------------------------------------------

    def addresses(self) -> dict[str, str]:
        """Give what a script needs to use the sandbox; contains its secrets."""
        ports = self._ports
        found = {
            "grpc": f"{HOST}:{ports.grpc}",
            "internal": f"{HOST}:{ports.internal}",
            "gateway": f"http://{HOST}:{ports.gateway}",
            "gateway_ops": f"http://{HOST}:{ports.gateway_ops}",
            "stripe": f"http://{HOST}:{ports.stripe}",
            "control": f"http://{HOST}:{ports.stripe}/_control",
            "clock": f"http://{HOST}:{ports.stripe}/_control/clock",
            "ops": f"http://{HOST}:{ports.ops}",
            "database": self.database_url,
            "api_key": self.secrets.api_key,
            "webhook_secret": self.secrets.webhook_secret,
            "internal_token": self.secrets.internal_token,
            "grpc_token": self.secrets.grpc_token,
            "admin_token": self.secrets.admin_token,
            **({"traces": f"http://{HOST}:{ports.traces}"} if self._plan.traces else {}),
        }
        return {**found, "storefront": f"http://{HOST}:{ports.storefront}"} if self._plan.storefront else found

    # --- The programs ------------------------------------------------------------------------------------------------

    def _stripe(self) -> Child:
        port = self._ports.stripe
        arguments = {
            "--port": str(port),
            "--state": str(self._plan.folder / "stripe.json"),
            "--clock": str(self._plan.folder / "clock"),
            "--api-key": self.secrets.api_key,
            "--webhook-url": f"http://{HOST}:{self._ports.gateway}/webhooks/stripe",
            "--webhook-secret": self.secrets.webhook_secret,
            "--catalog": str(self._plan.catalog),
        }
        argv = ["sandbox.stripe", *(word for pair in arguments.items() for word in pair)]
        return Child("stripe", argv, ready=lambda: answers(port, "/_control"))

    def service_environment(self) -> dict[str, str]:
        """What the service and an operator's commands are configured with; contains secrets."""
        return {
            "BILLING_DATABASE_URL": self.database_url,
            "BILLING_STRIPE_API_KEY": self.secrets.api_key,
            "BILLING_STRIPE_API_BASE": f"http://{HOST}:{self._ports.stripe}",
            "BILLING_CATALOG": str(self._plan.catalog),
            "BILLING_DEPLOYMENT": DEPLOYMENT,
            "BILLING_SANDBOX_CLOCK": str(self._plan.folder / "clock"),
            "BILLING_GRPC_ADDRESS": f"{HOST}:{self._ports.grpc}",
            "BILLING_INTERNAL_ADDRESS": f"{HOST}:{self._ports.internal}",
            "BILLING_INTERNAL_TOKEN": self.secrets.internal_token,
            "BILLING_ACCESS_FILE": str(self._access_file),
            "BILLING_OPS_ADDRESS": f"{HOST}:{self._ports.ops}",
            **self._tracing(),
            "BILLING_DRAIN_DELAY_S": "0",  # there is no other process to go to
            **self._plan.service_settings,
        }

    def _billing_service(self) -> Child:
        port = self._ports.ops
        environment = self.service_environment()
        return Child(
            "service", ["billing_service", "serve"], environment=environment, ready=lambda: answers(port, "/readyz")
        )

    def _gateway(self) -> Child:
        port = self._ports.gateway
        environment = {
            "GATEWAY_ADDRESS": f"{HOST}:{port}",
            "GATEWAY_OPS_ADDRESS": f"{HOST}:{self._ports.gateway_ops}",
            "GATEWAY_FULFILLMENT_TARGET": f"{HOST}:{self._ports.internal}",
            "GATEWAY_INTERNAL_TOKEN": self.secrets.internal_token,
            "GATEWAY_WEBHOOK_SECRETS": f"sandbox={self.secrets.webhook_secret}",
            "GATEWAY_LIVEMODE": "false",
            **self._tracing(),
        }
        return Child("gateway", ["webhook_gateway"], environment=environment, ready=lambda: answers(port, "/readyz"))

    def _tracing(self) -> dict[str, str]:
        """Say where traces go to, half a second after they are made; nothing where they are not wanted."""
        where = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{self._ports.traces}",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }
        return where if self._plan.traces else {}

    def _traces(self) -> Child:
        port = self._ports.traces
        return Child("traces", ["sandbox.traces", "--port", str(port)], ready=lambda: answers(port, "/"))

    def _storefront(self) -> Child:
        port = self._ports.storefront
        environment = {
            "STOREFRONT_ADDRESS": f"{HOST}:{port}",
            "STOREFRONT_URL": f"http://{HOST}:{port}",
            "STOREFRONT_BILLING_TARGET": f"{HOST}:{self._ports.grpc}",
            "STOREFRONT_BILLING_TOKEN": self.secrets.grpc_token,
        }
        return Child(
            "storefront", ["sandbox.storefront"], environment=environment, ready=lambda: answers(port, "/livez")
        )
