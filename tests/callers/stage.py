"""Two services behind gRPC on one database, the stand-in Stripe with the clock that all share, and a proxy between for faults.

All in this process, and what runs in the background is run when a life says so: so a seed leads the same life again.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
import psycopg
from aiohttp import web
from billing.v1 import billing_service_pb2, billing_service_pb2_grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.observation import HANDLED_TYPES
from billing_service.domain.plan_index import PlanIndex
from billing_service.program import Program
from billing_service.settings import Settings
from sandbox.stripe.app import StandInStripe
from sandbox.stripe.objects import Kind
from sandbox.stripe.rendering import shown
from tests.integration.test_histories import StandIn
from tests.stripe_proxy import Forward, forward, lose_request, proxied
from tests.torture.stage import CATALOG

KEY = "sk_test_callers"
BEGIN = 1_790_000_000.0  # the clock stands still while a call is made, so that a preview costs what the change does
CALL_S = 20.0
BATCH = 50  # events in one call
MOST_ROUNDS = 200  # of reading what asks for it; more means that it goes in circles
HELD_S = 61  # for which a change whose process died keeps others away
NO_MORE = 10**9  # requests
PARSED = parse_catalog(CATALOG.read_text(encoding="utf-8"))
_NEVER = "CANCELLED"  # what is not the service's word: the call was cut off with its process


@dataclass(frozen=True)
class Told:
    """What a call came to: an answer, or a code with its reason."""

    answer: Any = None
    code: str = ""
    reason: str = ""
    message: str = ""

    @property
    def is_to_be_repeated(self) -> bool:
        """Whether the contract says to call again with the same request id."""
        return self.code in {"UNAVAILABLE", "DEADLINE_EXCEEDED", _NEVER} or self.reason == "REQUEST_IN_PROGRESS"


@dataclass
class Service:
    """One service in this process."""

    program: Program
    billing: billing_service_pb2_grpc.BillingServiceAsyncStub
    channel: grpc.aio.Channel
    writer: asyncio.Task[None]
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def die(self) -> None:
        """Reach the database no more, as a process that was killed."""

        async def never(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        self.program._database.run = never  # type: ignore[method-assign]
        self.died.set()

    async def clear_away(self) -> None:
        """End what is left of it."""
        await self.channel.close()
        await asyncio.gather(*(listener.stop(0) for listener in self.program._listeners))
        self.writer.cancel()
        await asyncio.gather(self.writer, return_exceptions=True)
        with suppress(Exception):
            await self.program._close_all()


class Stage:
    """What a life is led on."""

    def __init__(self, database_url: str) -> None:
        """Take a migrated database of its own."""
        self.database_url = database_url
        self.stripe = StandInStripe(KEY, now=lambda: BEGIN)
        self.taken: set[str] = set()
        self._bodies: dict[str, bytes] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        url = await self.stripe.start()
        self._stack.push_async_callback(self.stripe.stop)
        self.stripe.seed(tomllib.loads(CATALOG.read_text(encoding="utf-8")))
        http = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.at = StandIn(url, http)
        self.proxy = await self._stack.enter_async_context(proxied(url))
        self.services = [await self._service(), await self._service()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self.services:
            await service.clear_away()
        await self._stack.aclose()

    async def _service(self) -> Service:
        settings = Settings.model_validate(
            {
                "database_url": self.database_url, "stripe_api_key": KEY, "stripe_api_base": self.proxy.url,
                "catalog": CATALOG, "grpc_address": "127.0.0.1:0", "internal_address": "127.0.0.1:0",
                "ops_address": "127.0.0.1:0", "internal_token": "a-token-of-the-gateway", "stripe_background_rate": 100,
            }
        )  # fmt: skip
        program = Program(settings, PARSED, self.now)
        address = (await program._listen()).grpc
        await program._prices.refresh()
        channel = grpc.aio.insecure_channel(str(address))
        stub = billing_service_pb2_grpc.BillingServiceStub(channel)
        return Service(program, stub, channel, asyncio.create_task(program._fulfill.run()))

    def now(self) -> datetime:
        """Give the time that all share."""
        return datetime.fromtimestamp(self.stripe._clock(), UTC)

    async def pass_time(self, seconds: int) -> None:
        """Move the clock, and have Stripe do what falls due."""
        self.published()  # Stripe forgets them after thirty days
        await self.at.control("clock", advance_s=seconds)

    # --- Calls ---------------------------------------------------------------------------------------------------------

    async def call(self, method: str, request: Message, *, by: int = 0) -> Told:
        """Call a method of one of the services; where that dies meanwhile another takes its place."""
        service = self.services[by]
        call = asyncio.ensure_future(_told(getattr(service.billing, method)(request, timeout=CALL_S)))
        died = asyncio.ensure_future(service.died.wait())
        await asyncio.wait({call, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        self.proxy.nth(NO_MORE, forward)
        if not service.died.is_set():
            return await call
        call.cancel()
        await service.clear_away()
        self.services[by] = await self._service()
        return Told(code=_NEVER)

    async def kill(self, request: web.Request, to_stripe: Forward, *, is_made: bool) -> web.StreamResponse:
        """Have the first service die when it sends a request, or when Stripe has done it."""
        if is_made:
            await to_stripe()
        self.services[0].die()
        return await lose_request(request, to_stripe)

    # --- Webhooks ------------------------------------------------------------------------------------------------------

    def published(self) -> list[str]:
        """Give the events of types that are used that the service has not got, in the order of their making."""
        for event in self.stripe._account.store.all(Kind.EVENT):
            if event["type"] in HANDLED_TYPES and event["id"] not in self._bodies:
                self._bodies[event["id"]] = json.dumps(shown(event)).encode()
        return [event_id for event_id in self._bodies if event_id not in self.taken]

    async def deliver(self, event_ids: list[str]) -> None:
        """Have these arrive, in this order."""
        for start in range(0, len(event_ids), BATCH):
            some = event_ids[start : start + BATCH]
            await self.services[0].program._fulfill([self._bodies[event_id] for event_id in some])
            self.taken |= set(some)

    async def rest(self) -> None:
        """Have everything arrive, and everything be read that asks for it."""
        program = self.services[0].program
        await self.deliver(self.published())
        for number in range(MOST_ROUNDS):
            if not self._make_due():
                break
            if number == MOST_ROUNDS // 2:  # a change that was left is finished once nobody can be at it
                await self.pass_time(HELD_S)
            while await program._refresh.drain():
                await self.deliver(self.published())
        else:
            raise AssertionError("it is read again and again")
        while await program._time_changes.drain():
            pass

    def _make_due(self) -> bool:
        """Have what waits to be read be due, with a budget for it; say whether anything waits."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("UPDATE stripe_budget SET tokens = 200")
            due = "UPDATE rereads SET due_time = now() - interval '1 second', lease_time = NULL"
            return connection.execute(due).rowcount > 0

    # --- What is known besides -----------------------------------------------------------------------------------------

    def plan_of(self, price: dict[str, Any] | str) -> str:
        """Give the plan that a price is of: the seeded products carry its key."""
        price = price if isinstance(price, dict) else self.stripe._account.find(Kind.PRICE, price)
        return str(price["product"]).removeprefix("prod_")

    def plans(self) -> PlanIndex:
        """Give which plan each price stands for."""
        return PlanIndex(PARSED, {one["id"]: self.plan_of(one) for one in self.stripe._account.store.all(Kind.PRICE)})

    def phases_to_come(self, schedule_id: str | None) -> list[tuple[int, list[tuple[str, int]]]]:
        """Give what waits under a schedule: from when, and which plans how many times."""
        if schedule_id is None:
            return []
        schedule = self.stripe._account.find(Kind.SUBSCRIPTION_SCHEDULE, schedule_id)
        end = (schedule["current_phase"] or {"end_date": float("inf")})["end_date"]
        return [
            (phase["start_date"], [(self.plan_of(one["price"]), one["quantity"]) for one in phase["items"]])
            for phase in schedule["phases"]
            if phase["start_date"] >= end
        ]

    def found_twice(self, customer_id: str) -> int:
        """Count what was found of the customer's having bought something twice."""
        with psycopg.connect(self.database_url) as connection:
            counted = "SELECT count(*) FROM findings WHERE customer_id = %s AND kind LIKE '%%twice%%'"
            row = connection.execute(counted, (customer_id,)).fetchone()
            return int(row[0]) if row else 0


async def _told(call: Any) -> Told:
    try:
        return Told(await call)
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        info = error_details_pb2.ErrorInfo()
        for detail in status.details if status else ():
            detail.Unpack(info)
        return Told(None, error.code().name, info.reason, error.details() or "")


@cache
def documented(method: str) -> frozenset[str]:
    """Give the reasons that the contract names for a method, and those of every one."""
    text = (Path(__file__).parents[2] / "protos" / billing_service_pb2.DESCRIPTOR.name).read_text(encoding="utf-8")
    before = text[: text.index(f"rpc {method}(")]
    errors = before.rpartition("Errors:")[2].replace("//", " ")
    if "those of CancelSubscription" in errors:
        return documented("CancelSubscription")
    reasons = [word.strip("(),.:;") for word in errors.split()]
    return frozenset(one for one in reasons if one.isupper()) | {"DEADLINE_EXCEEDED", "OVERLOADED"}
