"""Takes the personal data of a customer out, a little at a time: what is found by key, then bodies of events by looking through them, then
what came by key meanwhile.

What was paid for, and the ids that the books need, stay. Any number of processes may be at it; each row is worked at by one. Everything
is done in batches, and may be done twice: who goes on with what somebody else began finds what is left.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from billing_service.deadline import remaining_s
from billing_service.domain.checkout_body import SESSION_LIFE
from billing_service.domain.errors import BillingError, CustomerNotFoundError
from billing_service.domain.observation import METADATA_CUSTOMER_ID
from billing_service.domain.operator import Operation, Order
from billing_service.flows.operator_request import Asked, once
from billing_service.logs import named
from billing_service.storage import customers, erasures, events, grants, operator_requests, quarantine, stripe_customers
from billing_service.storage.database import Connection, Database
from billing_service.storage.erasures import Erasure, Looked
from billing_service.storage.unwritable import UnwritableError

ANSWER_S: Final = 3.0  # of looking through bodies before the answer; a small installation is done by then
PAUSE_S: Final = 0.02  # between two batches, so that nobody who works notices
RUNNING_INTERVAL_S: Final = 10.0  # between two looks for what another process left undone
LATER_INTERVAL_S: Final = 3_600.0  # between two looks for what came after an erasure
OBJECTS_AT_ONCE: Final = 500  # of one customer's objects; as many rounds as it takes
WAIT_S: Final = 0.25  # between two looks whether what was in flight has ended
MOST_CUSTOMERS: Final = 100  # of one look

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Begun:
    """What a repetition of a request is answered with: whose erasing it was. How far that is, is asked anew."""

    customer_id: str


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
        asked = Asked(order, Operation.ERASE_CUSTOMER, customer_id, customer_id)
        begin = lambda c: once(c, asked, _Begun, lambda: self._begin(c, customer_id))  # noqa: E731 - one line says it
        await self._database.run(begin)
        await self._go_on(customer_id, remaining_s(ANSWER_S), waits=True)
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
                    await self._go_on(customer_id, LATER_INTERVAL_S, waits=False)
                if loop.time() >= later:
                    await self.later()
                    later = loop.time() + LATER_INTERVAL_S
            except (BillingError, UnwritableError) as error:
                log.warning("erasing_interrupted", error=named(error))
            await asyncio.sleep(RUNNING_INTERVAL_S)

    async def later(self) -> None:
        """Empty the bodies of events that came after their customer was erased, of checkouts that ended since, and what a new Stripe customer was made with."""
        after = ""
        while batch := await self._database.run(lambda c, after=after: erasures.done(c, after, MOST_CUSTOMERS)):  # type: ignore[misc]  # bound now
            for customer_id in batch:
                await self._by_key(customer_id)
            after = batch[-1]

    async def _begin(self, connection: Connection, customer_id: str) -> _Begun:
        """Take out at once what stands in the customer's own rows."""
        if await customers.create_time(connection, customer_id) is None:
            raise CustomerNotFoundError(customer_id)
        await customers.lock(connection, [customer_id])
        body = await customers.erase_stripe_request(connection, customer_id)
        await erasures.begin(connection, customer_id, self._now(), stripe_customer_body=body)
        return _Begun(customer_id)

    async def _go_on(self, customer_id: str, limit_s: float, *, waits: bool) -> None:
        """Work at it until it is done or the time is over; without `waits` only as long as there is something to look at."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        until_time = await self._database.run(lambda c: erasures.until_time(c, customer_id))
        if until_time is None or loop.time() >= end:
            return
        await self._reasons(customer_id)
        await self._by_key(customer_id)
        needles = await self._needles(customer_id)
        looked = Looked.MORE
        while looked is Looked.MORE or (looked is Looked.WAITING and waits):
            if loop.time() >= end:
                return
            looked = await self._database.run(lambda c: erasures.look_on(c, customer_id, needles))
            await asyncio.sleep(PAUSE_S if looked is Looked.MORE else WAIT_S if looked is Looked.WAITING else 0)
        if looked is Looked.TO_THE_END:
            await self._by_key(customer_id)  # what was in flight when it was asked for is there by now
            await self._database.run(lambda c: erasures.finish(c, customer_id, until_time, self._now()))

    async def _reasons(self, customer_id: str) -> None:
        """Empty the free text of operators: about the customer, and about nobody in particular."""

        async def tied(connection: Connection) -> int:
            return await operator_requests.erase_reasons(connection, customer_id, erasures.LOOKED_AT)

        async def untied(connection: Connection) -> int:
            return await operator_requests.erase_reasons_of_nobody(connection, erasures.LOOKED_AT)

        async def given(connection: Connection) -> int:
            return await grants.erase_reasons(connection, customer_id, erasures.LOOKED_AT)

        for work in (tied, untied, given):
            await self._drain(customer_id, work, "reasons")

    async def _by_key(self, customer_id: str) -> None:
        """Empty what is found by the customer's key and by their objects."""
        left = self._now() - SESSION_LIFE  # longer than an attempt may be resumed

        async def checkouts(connection: Connection) -> int:
            erasures.lock(connection, customer_id)
            return await erasures.empty_checkouts(connection, customer_id, left)

        async def requests(connection: Connection) -> int:
            erasures.lock(connection, customer_id)
            return await erasures.empty_checkout_requests(connection, customer_id, left)

        async def stripe_request(connection: Connection) -> None:
            await customers.lock(connection, [customer_id])
            gone = await customers.erase_stripe_request(connection, customer_id)
            await erasures.count(connection, customer_id, stripe_customer_bodies=int(gone))

        await self._drain(customer_id, checkouts, "checkout_bodies")
        await self._drain(customer_id, requests, None)
        await self._database.run(stripe_request)
        after: str | None = ""
        while after is not None:
            after = await self._by_objects(customer_id, after)

    async def _by_objects(self, customer_id: str, after: str) -> str | None:
        """Empty what is about the next of their objects; give the last of those, or None where there are no more."""
        find = events.objects_after
        objects = await self._database.run(lambda c: find(c, customer_id, after, OBJECTS_AT_ONCE))

        async def bodies(connection: Connection) -> int:
            erasures.lock(connection, customer_id)
            return await erasures.empty_events_of(connection, objects)

        await self._drain(customer_id, bodies, "event_bodies")
        await self._quarantine(customer_id, objects)
        return objects[-1] if len(objects) == OBJECTS_AT_ONCE else None

    async def _quarantine(self, customer_id: str, objects: Sequence[str]) -> None:
        after: str | None = ""
        needles = await self._needles(customer_id)

        async def look(connection: Connection, after: str) -> str | None:
            erasures.lock(connection, customer_id)
            last, gone = await quarantine.erase(connection, needles, objects, after, erasures.LOOKED_AT)
            await erasures.count(connection, customer_id, quarantined_events=gone)
            return last

        while after is not None:
            after = await self._database.run(lambda c, after=after: look(c, after))  # type: ignore[misc]  # bound now

    async def _drain(self, customer_id: str, work: Callable[[Connection], Awaitable[int]], counted: str | None) -> None:
        """Do a batch after another until one is not full, and count what they took out."""

        async def batch(connection: Connection) -> int:
            emptied = await work(connection)
            if counted is not None:
                await erasures.count(connection, customer_id, **{counted: emptied})
            return emptied

        emptied = erasures.LOOKED_AT
        while emptied >= erasures.LOOKED_AT:
            emptied = await self._database.run(batch)
            await asyncio.sleep(PAUSE_S)

    async def _needles(self, customer_id: str) -> frozenset[bytes]:
        """Give texts that only a body about the customer has."""

        async def load(connection: Connection) -> Sequence[str]:
            return [*await stripe_customers.of_customers(connection, [customer_id])]

        return _named(customer_id) | {_quoted(one) for one in await self._database.run(load)}


def _quoted(text: str) -> bytes:
    return f'"{text}"'.encode()


def _named(customer_id: str) -> frozenset[bytes]:
    """Give how our metadata and Stripe's reference name a customer in JSON, however it is spaced and escaped."""
    keys = (METADATA_CUSTOMER_ID, "client_reference_id")
    values = {json.dumps(customer_id), json.dumps(customer_id, ensure_ascii=False)}
    return frozenset(f'"{key}":{gap}{value}'.encode() for key in keys for gap in ("", " ") for value in values)
