"""Two services and two gateways over one PostgreSQL and the stand-in Stripe, as an operator would have them on two machines."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from billing_service.storage.schema import migrate
from sandbox.ports import HOST, free_port
from sandbox.postgres import EmbeddedPostgres
from sandbox.processes import Child, answers
from tests.acceptance.world import ROOT

CATALOG = ROOT / "catalog.toml"
DEPLOYMENT = "rolling"
# Longer than the balancer takes to see that a gateway is going.
DRAIN_DELAY_S = 1.0
# Fast; nothing here is about what a disk has.
_POSTGRES = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


class Site:
    """The programs, each of which can be restarted by itself."""

    def __init__(self, folder: Path, workers: int) -> None:
        """Take an empty folder that other users may look into, and how many workers each service is to have."""
        self._folder = folder
        self._workers = workers
        self._token = secrets.token_urlsafe(24)
        self.api_key = f"sk_test_rolling_{secrets.token_hex(16)}"
        self.secret = f"whsec_{secrets.token_hex(24)}"
        self.balancer_port = free_port()
        self.stripe_port = free_port()
        self.grpc_ports, self._internal_ports, self._ops_ports, self.gateway_ports = (
            (free_port(), free_port()) for _ in range(4)
        )
        self._postgres = EmbeddedPostgres(folder / "postgres", settings=_POSTGRES)
        self._stripe = self._make_stripe()
        self.services: Sequence[Child] = ()
        self.gateways: Sequence[Child] = ()

    @property
    def database_url(self) -> str:
        """The service's database."""
        return self._postgres.url("billing")

    @property
    def control(self) -> str:
        """Where the stand-in's controls are."""
        return f"http://{HOST}:{self.stripe_port}/_control"

    @property
    def programs(self) -> Sequence[Child]:
        """What is restarted, one after the other."""
        return (self.services[0], self.gateways[0], self.services[1], self.gateways[1])

    def start(self) -> None:
        """Start everything; come back when each answers. To be called on the thread to whose life the programs are tied."""
        self._postgres.start()
        migrate(self._postgres.ensure_database("billing"))
        self.services = [self._make_service(number) for number in range(2)]
        self.gateways = [self._make_gateway(number) for number in range(2)]
        for children in ((self._stripe,), self.services, self.gateways):
            for child in children:
                child.start()
            for child in children:
                child.wait_ready()

    async def restart(self, child: Child) -> int | None:
        """Stop a program as an operator does, start it again, and wait until it answers; give its exit code."""
        await asyncio.to_thread(child.stop)
        code = child.poll()
        child.start()
        await asyncio.to_thread(child.wait_ready)
        return code

    def stop(self) -> None:
        """Stop everything."""
        for child in (*self.gateways, *self.services, self._stripe):
            child.stop()
        self._postgres.stop()

    def _make_stripe(self) -> Child:
        arguments: dict[str, Any] = {
            "--port": self.stripe_port,
            "--state": self._folder / "stripe.json",
            "--clock": self._folder / "clock",
            "--api-key": self.api_key,
            "--webhook-url": f"http://{HOST}:{self.balancer_port}/webhooks/stripe",
            "--webhook-secret": self.secret,
            "--catalog": CATALOG,
        }
        argv = ["sandbox.stripe", *(str(word) for pair in arguments.items() for word in pair)]
        return Child("stripe", argv, ready=lambda: answers(self.stripe_port, "/_control"))

    def _make_service(self, number: int) -> Child:
        ops = self._ops_ports[number]
        environment = {
            "BILLING_DATABASE_URL": self.database_url,
            "BILLING_STRIPE_API_KEY": self.api_key,
            "BILLING_STRIPE_API_BASE": f"http://{HOST}:{self.stripe_port}",
            "BILLING_CATALOG": str(CATALOG),
            "BILLING_DEPLOYMENT": DEPLOYMENT,
            "BILLING_GRPC_ADDRESS": f"{HOST}:{self.grpc_ports[number]}",
            "BILLING_INTERNAL_ADDRESS": f"{HOST}:{self._internal_ports[number]}",
            "BILLING_INTERNAL_TOKEN": self._token,
            "BILLING_OPS_ADDRESS": f"{HOST}:{ops}",
            "BILLING_RECONCILE_INTERVAL_S": "86400",  # what is lost is to stay lost
            "BILLING_WORKERS": str(self._workers),
        }
        return Child(
            f"service-{number}",
            ["billing_service", "serve"],
            environment=environment,
            ready=lambda: answers(ops, "/readyz"),
        )

    def _make_gateway(self, number: int) -> Child:
        port = self.gateway_ports[number]
        environment = {
            "GATEWAY_ADDRESS": f"{HOST}:{port}",
            "GATEWAY_FULFILLMENT_TARGET": ",".join(f"{HOST}:{port}" for port in self._internal_ports),
            "GATEWAY_INTERNAL_TOKEN": self._token,
            "GATEWAY_WEBHOOK_SECRETS": f"rolling={self.secret}",
            "GATEWAY_DRAIN_DELAY_S": str(DRAIN_DELAY_S),
        }
        return Child(
            f"gateway-{number}", ["webhook_gateway"], environment=environment, ready=lambda: answers(port, "/readyz")
        )
