"""The real programs that a run tortures, and how they are killed and raised again."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
import psycopg
from billing.v1.billing_service_pb2_grpc import BillingServiceStub

from billing_service.storage.derivations import NEXT_CHANGE
from sandbox.channel import credentials
from sandbox.ports import Ports
from sandbox.stack import Plan, Stack
from tests.torture.plan import Crash

CATALOG = Path(__file__).with_name("catalog.toml")
# Fast, and still true to a crash of the server: what it has committed, the kernel has.
_POSTGRES = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}
_TIMEOUT_S = 60.0
_POSTGRES_STOP_S = 30.0


class ControlError(Exception):
    """The stand-in refused: what was asked for does not apply at this moment."""


@dataclass(frozen=True)
class Recorded:
    """What the service's database holds of events, by id."""

    recorded: Mapping[str, int]
    quarantined: Mapping[str, int]


class Stage:
    """PostgreSQL, stand-in, service and gateway as processes of their own, and the ways to reach them."""

    def __init__(
        self,
        folder: Path,
        service_settings: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
    ) -> None:
        """Take a folder that other users may look into, and what service and PostgreSQL are to have beside their usual settings."""
        settings = service_settings or {}
        self.stack = Stack(
            Plan(
                folder,
                Ports.choose(0),
                CATALOG,
                storefront=False,
                postgres_settings={**_POSTGRES, **(postgres_settings or {})},
                service_settings=settings,
            )
        )
        self.addresses: Mapping[str, str] = {}

    async def __aenter__(self) -> Self:
        try:
            self.stack.start()
            self.addresses = self.stack.addresses()
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
            self._channel = grpc.aio.secure_channel(
                self.addresses["grpc"],
                credentials(self.addresses["grpc_token"]),
                options=[("grpc.max_reconnect_backoff_ms", 500)],
            )
            self.billing = BillingServiceStub(self._channel)
        except BaseException:
            self.stack.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()
        await self._http.close()
        self.stack.stop()

    def crash(self, what: Crash) -> None:
        """Kill a program and start it again, the service as another release. Blocks: the stand-in goes on sending meanwhile.

        Called from the main thread, to whose life the programs are tied.
        """
        if what is Crash.POSTGRES:
            self._crash_postgres()
            return
        child = self.stack.service if what is Crash.SERVICE else self.stack.gateway
        child.kill()
        if what is Crash.SERVICE:
            self._note_other_rules()
        child.start()
        child.wait_ready()

    def restart_service(self) -> None:
        """Stop the service as an operator does, and start it again. Blocks."""
        self.stack.service.stop()
        self.stack.service.start()
        self.stack.service.wait_ready()

    def _crash_postgres(self) -> None:
        process = self.stack.postgres.process
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # "immediate": no checkpoint, and recovery at the next start
            process.wait(_POSTGRES_STOP_S)
        self.stack.postgres.start()

    async def control(self, path: str, **body: Any) -> Any:
        """Use one of the stand-in's controls. Raises ControlError when it refuses."""
        async with self._http.post(f"{self.addresses['control']}/{path}", json=body) as response:
            return _answer(response.status, await response.json())

    async def ask(self, path: str) -> Any:
        """Ask one of the stand-in's controls."""
        async with self._http.get(f"{self.addresses['control']}/{path}") as response:
            return _answer(response.status, await response.json())

    async def stripe(self, method: str, path: str, **form: str) -> Any:
        """Use the stand-in's API as the shop's owner does in the dashboard. Raises ControlError when it refuses."""
        headers = {"Authorization": f"Bearer {self.addresses['api_key']}"}
        url = f"{self.addresses['stripe']}/v1/{path}"
        given: dict[str, Any] = {"params" if method == "GET" else "data": form}
        try:
            async with self._http.request(method, url, headers=headers, **given) as response:
                return _answer(response.status, await response.json())
        except aiohttp.ClientConnectionError as error:  # a fault that was asked for
            raise ControlError(str(error)) from error

    def upgrade(self) -> None:
        """Restart the service as after a release that gathered everybody's facts otherwise. Blocks; see `is_upgraded`."""
        self._note_other_rules()
        self.restart_service()

    def is_upgraded(self) -> bool:
        """Whether everybody's facts were gathered anew since."""
        return not self._count(f"SELECT count(*) FROM derivations WHERE name = '{NEXT_CHANGE}' AND version = 'before'")  # noqa: S608

    def events(self) -> Recorded:
        """Count the rows of each event in the service's database."""
        with psycopg.connect(self.stack.database_url) as connection:
            recorded = connection.execute("SELECT event_id, count(*) FROM stripe_events GROUP BY event_id").fetchall()
            kept = connection.execute(
                "SELECT event_key, count(*) FROM quarantined_events GROUP BY event_key"
            ).fetchall()
        return Recorded(dict(recorded), dict(kept))

    def rereads_due(self) -> int:
        """Count the objects that the service means to read from Stripe soon, or was kept from reading so far."""
        return self._count(
            "SELECT count(*) FROM rereads WHERE due_time <= now() + interval '30 seconds' OR attempts > 0"
        )

    def findings(self) -> dict[str, int]:
        """Count what the service found for a person, by kind."""
        with psycopg.connect(self.stack.database_url) as connection:
            return dict(
                connection.execute("SELECT kind, count(*) FROM findings GROUP BY kind ORDER BY kind").fetchall()
            )

    def _note_other_rules(self) -> None:
        with psycopg.connect(self.stack.database_url) as connection:
            connection.execute(f"UPDATE derivations SET version = 'before' WHERE name = '{NEXT_CHANGE}'")  # noqa: S608 - a constant

    def _count(self, statement: str) -> int:
        with psycopg.connect(self.stack.database_url) as connection:
            row = connection.execute(statement).fetchone()
            return int(row[0]) if row else 0


def _answer(status: int, body: Any) -> Any:
    if status != 200:
        raise ControlError(body.get("error", {}).get("message", "refused"))
    return body
