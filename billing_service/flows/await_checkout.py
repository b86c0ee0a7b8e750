"""Waits until a checkout session is settled: until what it gives is in the answer, or nothing will come of it.

The webhook mostly does it within a moment, and Stripe holds the person back until it was taken. Where it is late, Stripe itself
is asked, once for everybody who waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from billing_service.deadline import remaining_s
from billing_service.domain.checkout_outcome import CheckoutOutcome, Missing, settled, unsettled
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.errors import CheckoutSessionNotFoundError, OverloadedError
from billing_service.domain.facts import NO_FACTS
from billing_service.domain.merge import ObjectState
from billing_service.flows.asked_reads import FRESH_S, AskedReads
from billing_service.flows.checkout_changes import CheckoutChanges
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.storage import checkout_progress, checkouts, customers, objects
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection, Database

MAX_WAITING = 300  # calls at once in one process: each holds one of the listener's calls for seconds
WAIT_LIMIT_S = 15.0  # as the contract says; Stripe sends a person back within 10 s
ANSWER_SHARE = 0.1  # of the time that is left, for the last look and the answer
PATIENCE_S = 1.0  # for the webhook, before Stripe is asked
PATIENCE_SHARE = 0.25  # and at most this much of a wait that is short
ASK_AGAIN_S = 3.0  # after a question that Stripe did not answer


@dataclass(frozen=True)
class Settled:
    """An answer, and what has come of the purchase that it waited for."""

    entitlements: Entitlements
    outcome: CheckoutOutcome


@dataclass(frozen=True)
class _Look:
    """What was known at one moment."""

    stamp: str
    session: ObjectState | None
    row: CustomerRow


class AwaitCheckout:
    """Looks, waits for a change, asks Stripe where that takes too long, and looks again."""

    def __init__(
        self, database: Database, read: ReadEntitlements, asked: AskedReads, now: Callable[[], datetime]
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._read = read
        self._asked = asked
        self._now = now
        self._changes = CheckoutChanges(database)
        self._waiting = 0

    async def __call__(self, customer_id: str, session_id: str) -> Settled:
        """Give the customer's entitlements once the session is settled, or as they are when the time is up.

        Raises:
            CheckoutSessionNotFoundError: no session of this customer has this id.
            OverloadedError: too many wait already.
            DatabaseUnavailableError: it does not answer.
        """
        if self._waiting >= MAX_WAITING:
            raise OverloadedError
        self._waiting += 1
        try:
            return await self._wait(customer_id, session_id)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Stop looking, and asking."""
        await self._changes.close()
        await self._asked.close()

    async def _wait(self, customer_id: str, session_id: str) -> Settled:
        loop = asyncio.get_running_loop()
        wait_s = min(WAIT_LIMIT_S, remaining_s(2 * WAIT_LIMIT_S) * (1 - ANSWER_SHARE))
        end = loop.time() + wait_s
        ask_at = loop.time() + min(PATIENCE_S, wait_s * PATIENCE_SHARE)
        since = int(self._now().timestamp()) - FRESH_S
        heard: set[str] = set()  # the objects that Stripe was asked about, and answered: two at the most
        while True:
            look = await self._look(customer_id, session_id)
            answer = await self._read.folded(look.row)
            found = settled(session_id, look.session, answer)
            if not isinstance(found, Missing):
                return Settled(answer, found)
            if loop.time() >= end:
                return Settled(answer, unsettled(look.session, since))
            if loop.time() >= ask_at and found.object_id not in heard:
                ask_at = loop.time() + ASK_AGAIN_S
                if await self._ask(found, end - loop.time()):
                    heard.add(found.object_id)
                    ask_at = loop.time()  # what this one names may be asked about at once
                continue
            next_ask = ask_at if found.object_id not in heard else end
            await self._changes.changed(session_id, look.stamp, min(end, next_ask) - loop.time())

    async def _ask(self, missing: Missing, limit_s: float) -> bool:
        """Ask Stripe, and say whether it was heard; the wait ends with the caller's time, the question goes on."""
        task = self._asked.ask(missing.kind, missing.object_id)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, limit_s))
        return bool(done) and not task.cancelled() and task.result()

    async def _look(self, customer_id: str, session_id: str) -> _Look:
        async def load(connection: Connection) -> _Look | None:
            # The stamp first: what changes after it is seen by the next look.
            stamps = await checkout_progress.stamps(connection, [session_id])
            intent = await checkouts.find_session(connection, session_id)
            if intent is None or intent.customer_id != customer_id:
                return None
            session = await objects.find(connection, session_id)
            rows = await customers.load(connection, [customer_id])
            row = rows.get(customer_id, CustomerRow(customer_id, 0, NO_FACTS))
            return _Look(stamps.get(session_id, ""), session, row)

        look = await self._database.run(load)
        if look is None:
            raise CheckoutSessionNotFoundError(session_id)
        return look
