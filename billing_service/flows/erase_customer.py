"""Takes the personal data of a customer out, a little at a time: what is kept by key at once, bodies of events by looking through them.

What was paid for, and the ids that the books need, stay. Any number of processes may be at it; each row is worked at by one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from billing_service.deadline import remaining_s
from billing_service.domain.errors import BillingError, CustomerNotFoundError
from billing_service.domain.observation import METADATA_CUSTOMER_ID
from billing_service.domain.operator import Order
from billing_service.flows.operator_request import Asked, once
from billing_service.logs import named
from billing_service.storage import customers, erasures, events, grants, operator_requests, quarantine, stripe_customers
from billing_service.storage.database import Connection, Database, UnwritableError
from billing_service.storage.erasures import Erasure

ANSWER_S: Final = 3.0  # of looking through bodies before the answer; a small installation is done by then
PAUSE_S: Final = 0.02  # between two batches, so that nobody who works notices
RUNNING_INTERVAL_S: Final = 10.0  # between two looks for what another process left undone
LATER_INTERVAL_S: Final = 3_600.0  # between two looks for what came after an erasure
MOST_OBJECTS: Final = 5_000  # of one customer
MOST_CUSTOMERS: Final = 100  # of one look

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Begun:
    """What a repetition of a request is answered with: whose erasing it was. How far that is, is asked anew."""

    customer_id: str


@dataclass(frozen=True)
class _Marks:
    """By what a customer is found in bodies: their objects, and texts that only a body about them has."""

    objects: frozenset[str]
    needles: frozenset[bytes]


class EraseCustomer:
    """Erases on request, and goes on in the background."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._now = now

    async def __call__(self, order: Order, customer_id: str) -> Erasure:
        """Begin, go on for a moment, and say how far it is.

        Raises:
            CustomerNotFoundError: nothing is known of the customer.
            RequestIdReusedError: the request id was used for something else.
        """
        asked = Asked(order, "erase_customer", customer_id, customer_id)
        begin = lambda c: once(c, asked, _Begun, lambda: self._begin(c, customer_id))  # noqa: E731 - one line says it
        await self._database.run(begin)
        await self._go_on(customer_id, remaining_s(ANSWER_S))
        erasure = await self._database.run(lambda connection: erasures.find(connection, customer_id))
        if erasure is None:
            raise LookupError("an erasure that was begun is not there")
        return erasure

    async def run(self) -> None:
        """Go on with what is not done, and empty what came after an erasure, for ever."""
        loop, later = asyncio.get_running_loop(), 0.0
        while True:
            try:
                for customer_id in await self._database.run(lambda c: erasures.running(c, MOST_CUSTOMERS)):
                    await self._go_on(customer_id, LATER_INTERVAL_S)
                if loop.time() >= later:
                    await self.later()
                    later = loop.time() + LATER_INTERVAL_S
            except (BillingError, UnwritableError) as error:
                log.warning("erasing_interrupted", error=named(error))
            await asyncio.sleep(RUNNING_INTERVAL_S)

    async def later(self) -> None:
        """Empty the bodies of events that came after their customer was erased, and of checkouts that ended since."""
        after = ""
        while batch := await self._database.run(lambda c, after=after: erasures.done(c, after, MOST_CUSTOMERS)):  # type: ignore[misc]  # bound now
            for customer_id in batch:
                marks = await self._marks(customer_id)
                await self._by_key(customer_id, marks)
                await self._quarantine(customer_id, marks)
            after = batch[-1]

    async def _begin(self, connection: Connection, customer_id: str) -> _Begun:
        """Take out at once what stands in the customer's own rows."""
        if await customers.create_time(connection, customer_id) is None:
            raise CustomerNotFoundError(customer_id)
        await customers.lock(connection, [customer_id])
        body = await customers.erase_stripe_request(connection, customer_id)
        reasons = await grants.erase_reasons(connection, customer_id)
        # Requests that are committed: nobody holds those but another erasing of this customer, who waits for the customer's lock.
        reasons += await operator_requests.erase_reasons(connection, customer_id)
        await erasures.begin(connection, customer_id, self._now(), stripe_customer_body=body, reasons=reasons)
        return _Begun(customer_id)

    async def _go_on(self, customer_id: str, limit_s: float) -> None:
        """Look through quarantine and events until it is done or the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        marks = await self._marks(customer_id)
        await self._by_key(customer_id, marks)
        await self._quarantine(customer_id, marks)
        more = True
        while more and loop.time() < end:
            more = await self._database.run(
                lambda c: erasures.look_on(c, customer_id, marks.objects, marks.needles, self._now())
            )
            await asyncio.sleep(PAUSE_S)

    async def _by_key(self, customer_id: str, marks: _Marks) -> None:
        """Empty what is found by the customer's key and by their objects."""

        async def checkouts(connection: Connection) -> int:
            erasures.lock(connection, customer_id)
            emptied = await erasures.empty_checkouts(connection, customer_id)
            await erasures.count(connection, customer_id, checkout_bodies=emptied)
            return emptied

        async def bodies(connection: Connection) -> int:
            erasures.lock(connection, customer_id)
            emptied = await erasures.empty_events_of(connection, marks.objects)
            await erasures.count(connection, customer_id, event_bodies=emptied)
            return emptied

        await self._drain(checkouts)
        await self._drain(bodies)

    async def _quarantine(self, customer_id: str, marks: _Marks) -> None:
        after: str | None = ""
        needles = marks.needles | {_quoted(one) for one in marks.objects}

        async def look(connection: Connection, after: str) -> str | None:
            erasures.lock(connection, customer_id)
            last, gone = await quarantine.erase(connection, needles, after, erasures.LOOKED_AT)
            await erasures.count(connection, customer_id, quarantined_events=gone)
            return last

        while after is not None:
            after = await self._database.run(lambda c, after=after: look(c, after))  # type: ignore[misc]  # bound now

    async def _drain(self, work: Callable[[Connection], Awaitable[int]]) -> None:
        emptied = erasures.LOOKED_AT
        while emptied == erasures.LOOKED_AT:
            emptied = await self._database.run(work)
            await asyncio.sleep(PAUSE_S)

    async def _marks(self, customer_id: str) -> _Marks:
        async def load(connection: Connection) -> tuple[frozenset[str], Collection[str]]:
            objects = await events.objects_of(connection, customer_id, MOST_OBJECTS)
            return objects, (await stripe_customers.of_customers(connection, [customer_id])).keys()

        objects, stripe_ids = await self._database.run(load)
        return _Marks(objects, _named(customer_id) | {_quoted(one) for one in stripe_ids})


def _quoted(text: str) -> bytes:
    return f'"{text}"'.encode()


def _named(customer_id: str) -> frozenset[bytes]:
    """Give how our metadata and Stripe's reference name a customer in JSON, however it is spaced and escaped."""
    keys = (METADATA_CUSTOMER_ID, "client_reference_id")
    values = {json.dumps(customer_id), json.dumps(customer_id, ensure_ascii=False)}
    return frozenset(f'"{key}":{gap}{value}'.encode() for key in keys for gap in ("", " ") for value in values)
