"""Reads again from Stripe what asked for it: by lease, within one budget that all processes share, never given up.

Stripe denying an object (401, 403, 404) is never an observation: what is known stays, and a person is told.
"""

from __future__ import annotations

import asyncio

import structlog

from billing_service import tracing
from billing_service.deadline import deadline_after
from billing_service.domain.errors import BillingError
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import Observation
from billing_service.domain.views import ObjectKind
from billing_service.flows.payment_ties import ties_of
from billing_service.flows.reads import FinishLeft, Reads
from billing_service.flows.request_budget import Budget, RequestBudget
from billing_service.logs import named
from billing_service.storage import findings, rereads
from billing_service.storage.database import Database
from billing_service.storage.findings import FindingKind
from billing_service.storage.rereads import Ask, Claim
from billing_service.storage.unwritable import UnwritableError
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite, StripeDenied

CLAIM_MOST = 1  # so that a worker that is killed holds up no more than what it was reading
POLL_S = 1.0  # between looks at an empty queue
READ_LIMIT_S = 20.0  # less than a lease; for a refund or dispute, with the wait for the budget of two lists


log = structlog.get_logger(__name__)


class Refresh:
    """The worker behind the queue of re-reads; any number of processes may run one each."""

    def __init__(
        self,
        database: Database,
        stripe: StripeApi,
        reads: Reads,
        budget: Budget | None = None,
        finish_left: FinishLeft | None = None,
    ) -> None:
        """Does nothing before `run` or `drain`. `finish_left` hears of each subscription that was read."""
        self._database = database
        self._reads = reads
        self._finish_left = finish_left
        self._budget = RequestBudget(database, budget or Budget())
        self._listing = stripe.listing.paced(self._budget.wait)

    async def run(self) -> None:
        """Serve the queue for ever."""
        while True:
            try:
                served = await self.drain()
            except (BillingError, UnwritableError) as error:
                log.warning("refresh_interrupted", error=named(error))
                served = 0
            if served == 0:
                await asyncio.sleep(POLL_S)

    async def drain(self) -> int:
        """Serve what is due, one claim; say how many objects were read or put off.

        With the budget spent it is given back as it was: it waits for the budget, not as if it had failed.
        """
        claims = await self._database.run(lambda connection: rereads.claim(connection, CLAIM_MOST))
        for served, claimed in enumerate(claims):
            if not await self._budget.take():
                left = claims[served:]
                await self._database.run(lambda connection: rereads.release(connection, left))  # noqa: B023 - awaited before the next turn
                return served
            # In a trace of its own, minutes later than what asked for it, which it points to.
            asked_by = [claimed.traceparent] if claimed.traceparent else []
            with deadline_after(READ_LIMIT_S), tracing.span(f"reread {claimed.kind.value}", links=asked_by):
                await self._serve(claimed)
        return len(claims)

    async def _serve(self, claimed: Claim) -> None:
        try:
            seen = await self._reads.object(claimed.kind, claimed.object_id)
            await self._follow(seen)
            if claimed.kind is ObjectKind.SUBSCRIPTION and self._finish_left is not None:
                await self._finish_left(claimed.object_id)
        except (StripeCallError, MalformedError, UnwritableError, BillingError) as error:
            missing = isinstance(error, StripeDefinite) and error.missing
            if missing or isinstance(error, StripeDenied):
                await self._note_denied(claimed, error)
            if not missing:  # a key without a permission is mended one day; what does not exist stays away
                await self._put_off(claimed, error)
                return
        await self._database.run(lambda connection: rereads.done(connection, claimed))

    async def _follow(self, seen: Observation) -> None:
        """Ask for what a refund or dispute belongs to, if that is not known. Each of it waits for its own turn and budget."""
        asks = [Ask(object_id, kind, 0) for kind, object_id in await ties_of(seen, self._database, self._listing)]
        if asks:
            await self._database.run(lambda connection: rereads.ask(connection, asks))

    async def _put_off(self, claimed: Claim, error: Exception) -> None:
        log.warning("reread_put_off", object_id=claimed.object_id, error=named(error))
        await self._database.run(lambda connection: rereads.later(connection, claimed))

    async def _note_denied(self, claimed: Claim, error: Exception) -> None:
        log.warning("reread_denied", object_id=claimed.object_id, error=named(error))
        detail = {"kind": claimed.kind.value, "answer": str(error)}
        await self._database.run(
            lambda c: findings.note(c, FindingKind.DENIED_BY_STRIPE, claimed.object_id, None, detail)
        )
