"""One PostgreSQL server with durable settings, a stand-in Stripe, and any number of services, each with its gateway.

The settings are PostgreSQL's own, or what docs/operations.md advises for many customers; fsync, synchronous_commit and
full_page_writes are on in both. Nobody gets others.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from benchmarks import population, recording
from benchmarks.load import Generators
from benchmarks.programs import Running, cpu_of_tree_s, python, start
from benchmarks.recording import Recording
from billing_service.storage.schema import migrate
from sandbox.ports import HOST, free_port
from sandbox.postgres import EmbeddedPostgres
from sandbox.processes import answers

CATALOG = Path(__file__).parent.parent / "catalog.toml"
WEBHOOK_PATH = "/webhooks/stripe"
DEPLOYMENT = "bench"


def advised() -> Mapping[str, str]:
    """Give what docs/operations.md advises for PostgreSQL with many customers, on this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"shared_buffers": f"{memory // 4 // 2**20}MB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


@dataclass(frozen=True)
class Pair:
    """A service and its gateway."""

    service: Running
    gateway: Running
    port: int  # the gateway's
    grpc_port: int
    database_url: str

    def stop(self) -> None:
        """Stop both, whoever takes requests first."""
        self.gateway.stop()
        self.service.stop()


class Stage:
    """What every benchmark plays on. Start it from a thread that lives as long as it is needed."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Take an empty folder that other users may look into, and settings of PostgreSQL that are not its own."""
        self.folder = folder
        self.secret = f"whsec_{secrets.token_hex(24)}"
        self.postgres = EmbeddedPostgres(folder / "postgres", settings=settings)
        self._token = secrets.token_urlsafe(32)
        self._api_key = f"sk_test_bench_{secrets.token_hex(16)}"
        self._stripe_port = free_port()
        self._running: list[Running] = []
        self._recording: Recording | None = None
        self.generators = Generators()

    def __enter__(self) -> Self:
        self.postgres.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for running in reversed(self._running):
            running.stop()
        self.generators.close()
        self.postgres.stop()

    @property
    def recording(self) -> Recording:
        """What one real customer's life left behind; made when first asked for."""
        if self._recording is None:
            self._recording = self._record()
        return self._recording

    def database(self, name: str, customers: int, *, events_each: int | None = None, whole: bool = False) -> str:
        """Make a migrated database with a population, and give its URL."""
        url = self.postgres.ensure_database(name)
        migrate(url)
        population.load(url, self.recording, customers, events_each=events_each, whole=whole)
        return url

    def copy(self, name: str, template: str) -> str:
        """Make a database that is as another one, to which nobody is connected, and give its URL."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            words = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(words.format(sql.Identifier(name), sql.Identifier(template)))
        return self.postgres.url(name)

    def drop(self, *names: str) -> None:
        """Drop databases that are no longer needed: they are gigabytes."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def serve(self, database_url: str, *, gateway_port: int | None = None) -> Pair:
        """Start a service and a gateway, as their programs are, on a database."""
        grpc_port, internal, ops, port = free_port(), free_port(), free_port(), gateway_port or free_port()
        service = self.start(
            "service",
            python("billing_service", "serve"),
            {
                "BILLING_DATABASE_URL": database_url,
                "BILLING_STRIPE_API_KEY": self._api_key,
                "BILLING_STRIPE_API_BASE": f"http://{HOST}:{self._stripe_port}",
                "BILLING_CATALOG": str(CATALOG),
                "BILLING_DEPLOYMENT": DEPLOYMENT,
                "BILLING_GRPC_ADDRESS": f"{HOST}:{grpc_port}",
                "BILLING_INTERNAL_ADDRESS": f"{HOST}:{internal}",
                "BILLING_INTERNAL_TOKEN": self._token,
                "BILLING_OPS_ADDRESS": f"{HOST}:{ops}",
            },
            ops,
            "/readyz",
        )
        gateway = self.start(
            "gateway",
            python("webhook_gateway"),
            {
                "GATEWAY_ADDRESS": f"{HOST}:{port}",
                "GATEWAY_FULFILLMENT_TARGET": f"{HOST}:{internal}",
                "GATEWAY_INTERNAL_TOKEN": self._token,
                "GATEWAY_WEBHOOK_SECRETS": f"bench={self.secret}",
            },
            port,
            "/readyz",
        )
        return Pair(service, gateway, port, grpc_port, database_url)

    def start(self, name: str, argv: Sequence[str], environment: dict[str, str], port: int, path: str) -> Running:
        """Start any program that answers GET on a port; it ends with the stage at the latest."""
        log = self.folder / f"{name}-{len(self._running)}.log"
        running = start(name, argv, environment, log, lambda: answers(port, path))
        self._running.append(running)
        return running

    def restart_postgres(self, settings: Mapping[str, str] | None = None) -> None:
        """Have the same databases served with other settings. Nobody may be connected; the port is another one."""
        self.postgres.stop()
        self.postgres = EmbeddedPostgres(self.folder / "postgres", settings=settings)
        self.postgres.start()

    def postgres_cpu_s(self) -> float:
        """Give the processor time that PostgreSQL has used so far."""
        return cpu_of_tree_s(self.postgres.pid) if self.postgres.pid else 0.0

    def settle(self) -> None:
        """Give each round the same beginning: nothing left to write from the one before."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def _record(self) -> Recording:
        gateway_port = free_port()
        arguments = {
            "--port": str(self._stripe_port),
            "--state": str(self.folder / "stripe.json"),
            "--clock": str(self.folder / "clock"),
            "--api-key": self._api_key,
            "--webhook-url": f"http://{HOST}:{gateway_port}{WEBHOOK_PATH}",
            "--webhook-secret": self.secret,
            "--catalog": str(CATALOG),
        }
        argv = python("sandbox.stripe", *(word for pair in arguments.items() for word in pair))
        url = self.postgres.ensure_database("recorded")
        migrate(url)
        self.start("stripe", argv, {}, self._stripe_port, "/_control")
        pair = self.serve(url, gateway_port=gateway_port)
        try:
            return recording.record(
                {
                    "grpc": f"{HOST}:{pair.grpc_port}",
                    "stripe": f"http://{HOST}:{self._stripe_port}",
                    "control": f"http://{HOST}:{self._stripe_port}/_control",
                    "api_key": self._api_key,
                    "database": url,
                }
            )
        finally:
            pair.stop()
