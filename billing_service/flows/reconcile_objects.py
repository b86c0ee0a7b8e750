"""Reads from Stripe what we hold and what Stripe lists: subscriptions, purchases, or everything of one customer.

For when the list of events does not reach back far enough, or is not to be trusted. Lists only discover ids; each object is
then read by its id, which is an observation ordered by its fence. Ours are read as well as Stripe's, because a deletion that
we missed is in no list of live ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from billing_service.domain.json_fields import MalformedError, reference
from billing_service.domain.observation import METADATA_DEPLOYMENT, Observation
from billing_service.domain.views import ObjectKind, SessionView
from billing_service.flows.patience import Patience
from billing_service.flows.payment_ties import ties_of
from billing_service.flows.reads import Reads, Verified
from billing_service.flows.reconcile_run import Progress, Walk, recorded
from billing_service.flows.request_budget import RequestBudget
from billing_service.logs import named
from billing_service.storage import customers, findings, history, links, objects, reconcile_runs, stripe_customers
from billing_service.storage.database import Connection, Database
from billing_service.storage.findings import FindingKind
from billing_service.storage.reconcile_runs import Run, RunState, Scope
from billing_service.storage.unwritable import UnwritableError
from billing_service.stripe_api.errors import StripeDefinite
from billing_service.stripe_api.listing import Page, StripeListing

MOST = 50  # objects between two recorded positions
LEFT_LIMIT = timedelta(days=1)  # what was read before that says little of today, and a restored backup may tell of it
OURS, THEIRS = "ours:", "theirs:"  # the two halves of a walk, as a recorded position begins

log = structlog.get_logger(__name__)


class ReconcileObjects:
    """Compares objects with Stripe's, and brings what differs back in."""

    def __init__(
        self,
        database: Database,
        listing: StripeListing,
        reads: Reads,
        budget: RequestBudget,
        deployment: str,
        now: Callable[[], datetime],
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._patience = Patience(budget)
        self._listing = listing.through(self._patience)
        self._reads = reads
        self._deployment = deployment
        self._now = now

    async def subscriptions(self, progress: Progress | None = None) -> Run:
        """Read every subscription of ours that is not over, and every live one of Stripe's that we never heard of.

        Goes on with a run that was left unfinished within a day. Raises as `reconcile_run.recorded` does.
        """
        return await self._walk(
            Scope.SUBSCRIPTIONS, ObjectKind.SUBSCRIPTION, self._listing.live_subscriptions, progress
        )

    async def purchases(self, progress: Progress | None = None) -> Run:
        """Read every purchase of ours and of Stripe's, with its refunds, its disputes and whether its customer still exists.

        Goes on with a run that was left unfinished within a day. Raises as `reconcile_run.recorded` does.
        """
        listed = lambda after: self._listing.completed_sessions(after=after)  # noqa: E731 - one line says it
        return await self._walk(Scope.PURCHASES, ObjectKind.CHECKOUT_SESSION, listed, progress)

    async def customer(self, customer_id: str, progress: Progress | None = None) -> Run:
        """Read everything of one customer, ours and Stripe's. Raises as `reconcile_run.recorded` does."""
        until = int(self._now().timestamp())
        run = await self._database.run(lambda c: reconcile_runs.begin(c, Scope.CUSTOMER, 0, until))

        async def everything(walk: Walk) -> None:
            await self._customer(walk, customer_id)
            await walk.reach(done_until=run.until)

        return await recorded(self._database, run, everything, progress)

    async def _customer(self, walk: Walk, customer_id: str) -> None:
        stripe_ids = await self._database.run(lambda c: stripe_customers.of_customers(c, [customer_id]))
        held = (await self._database.run(lambda c: customers.load(c, [customer_id]))).get(customer_id)
        subscriptions = {one.subscription_id for one in held.facts.subscriptions} if held else set()
        sessions = {one.checkout_session_id for one in held.facts.purchases} if held else set()
        for stripe_id in sorted(stripe_ids):
            async for page in self._listing.subscriptions(stripe_id):
                subscriptions |= set(self._ids(page))
            async for page in self._listing.completed_sessions(stripe_id):
                sessions |= set(self._ids(page))
        for stripe_id in sorted(stripe_ids):
            await self._whole(walk, ObjectKind.CUSTOMER, stripe_id)
        for subscription_id in sorted(subscriptions):
            await self._whole(walk, ObjectKind.SUBSCRIPTION, subscription_id)
        for session_id in sorted(sessions):
            await self._whole(walk, ObjectKind.CHECKOUT_SESSION, session_id)
        payments = await self._database.run(lambda c: links.anchors_of(c, sessions))
        for stripe_id in sorted(stripe_ids):
            await self._payments(walk, stripe_id, payments)

    async def _payments(self, walk: Walk, stripe_id: str, payments: Collection[str]) -> None:
        """Read what came back of a Stripe customer's payments other than these: those of subscriptions."""
        async for page in self._listing.charges(stripe_id):
            for charge in page.data:
                payment = reference(charge, "payment_intent")
                if payment is not None and payment not in payments:
                    kinds = {
                        ObjectKind.REFUND: charge.get("amount_refunded"),
                        ObjectKind.DISPUTE: charge.get("disputed"),
                    }
                    await self._returned(walk, payment, [kind for kind, is_there in kinds.items() if is_there])

    async def _walk(
        self, scope: Scope, kind: ObjectKind, listed: Callable[[str], AsyncIterator[Page]], progress: Progress | None
    ) -> Run:
        left = await self._database.run(lambda c: reconcile_runs.last_unfinished(c, scope, LEFT_LIMIT))
        resumed_at = None if left is None or left.failed else left.position
        if left is None or left.failed:
            until = int(self._now().timestamp())
            left = await self._database.run(lambda c: reconcile_runs.begin(c, scope, 0, until))
            left = replace(left, position=OURS)

        async def step(walk: Walk) -> None:
            if walk.run.position.startswith(OURS):
                await self._ours(walk, kind)
            else:
                await self._theirs(walk, kind, listed, resumed_at)

        return await recorded(self._database, replace(left, state=RunState.RUNNING), step, progress)

    async def _ours(self, walk: Walk, kind: ObjectKind) -> None:
        after, mode = walk.run.position.removeprefix(OURS), None if kind is ObjectKind.SUBSCRIPTION else "payment"
        ids = await self._database.run(lambda c: objects.unfinished(c, kind, after=after, most=MOST, mode=mode))
        for object_id in ids:
            await self._whole(walk, kind, object_id)
            await walk.reach(position=f"{OURS}{object_id}")
        if not ids:
            await walk.reach(position=THEIRS)

    async def _theirs(
        self, walk: Walk, kind: ObjectKind, listed: Callable[[str], AsyncIterator[Page]], resumed_at: str | None
    ) -> None:
        """Take one page of Stripe's list, in its order; what we know of was read among ours.

        The run may have been broken off while it read what bears on the next one, which is known since: that is read in any case.
        """
        passed = walk.run.position
        async for page in listed(passed.removeprefix(THEIRS)):
            ids = self._ids(page)
            known = await self._database.run(lambda c, ids=ids: objects.known(c, ids))  # type: ignore[misc] # a default binds it now
            for object_id in ids:
                if object_id not in known or (passed == resumed_at and kind is ObjectKind.CHECKOUT_SESSION):
                    await walk.reach(position=passed)
                    await self._whole(walk, kind, object_id)
                    await walk.reach(position=f"{THEIRS}{object_id}")
                passed = f"{THEIRS}{object_id}"
            if page.data and page.has_more:
                return await walk.reach(position=f"{THEIRS}{page.data[-1]['id']}")
        return await walk.reach(done_until=walk.run.until)

    def _ids(self, page: Page) -> list[str]:
        """Give the ids on a page of a list, but for those of other deployments and sessions that lead to a subscription."""
        return [str(one["id"]) for one in page.data if self._is_ours(one) and one.get("mode", "payment") == "payment"]

    def _is_ours(self, listed: Mapping[str, Any]) -> bool:
        metadata = listed.get("metadata")
        named = metadata.get(METADATA_DEPLOYMENT) if isinstance(metadata, Mapping) else None
        return named in {None, self._deployment}

    async def _whole(self, walk: Walk, kind: ObjectKind, object_id: str) -> None:
        """Read an object, and what bears on it."""
        verified = await self._one(walk, kind, object_id)
        if verified is not None and isinstance(verified.seen.view, SessionView):
            await self._around(walk, verified.seen, verified.seen.view)

    async def _around(self, walk: Walk, session: Observation, view: SessionView) -> None:
        """Read what bears on a purchase: refunds and disputes of its payment, and its customer."""
        if session.stripe_customer_id is not None:
            await self._one(walk, ObjectKind.CUSTOMER, session.stripe_customer_id)
        if view.payment_intent_id is not None:
            await self._returned(walk, view.payment_intent_id, [ObjectKind.REFUND, ObjectKind.DISPUTE])

    async def _returned(self, walk: Walk, payment: str, kinds: Iterable[ObjectKind]) -> None:
        """Read the refunds and disputes of a payment, and what it was paid for where that is not known."""
        lists = {ObjectKind.REFUND: self._listing.refunds_of, ObjectKind.DISPUTE: self._listing.disputes_of}
        for kind in kinds:
            async for page in lists[kind](payment):
                for one in page.data:
                    verified = await self._one(walk, kind, str(one["id"]))
                    if verified is not None:
                        for tie, object_id in await ties_of(verified.seen, self._database, self._listing):
                            await self._one(walk, tie, object_id)

    async def _one(self, walk: Walk, kind: ObjectKind, object_id: str) -> Verified | None:
        """Read one object and count what came of it."""
        place = await self._database.run(history.tip)
        try:
            verified = await self._patience(lambda: self._reads.verify(kind, object_id))
        except StripeDefinite as error:
            if not error.missing:
                raise
            detail = {"kind": kind.value, "answer": str(error)}
            await self._note(FindingKind.DENIED_BY_STRIPE, object_id, None, detail)
            await walk.count(denied=1)
            return None
        except (MalformedError, UnwritableError) as error:
            log.warning("reconcile_object_malformed", object_id=object_id, error=named(error))
            await walk.count(failed=1)
            return None
        moved = await self._database.run(lambda c: history.changed_by_read(c, object_id, place))
        await walk.count(found=1, repaired=int(verified.differs), drift=len(moved))
        for customer_id in sorted(moved):
            await self._note(FindingKind.DRIFT, object_id, customer_id, {"run_id": walk.run.run_id, "kind": kind.value})
        return verified

    async def _note(self, kind: FindingKind, subject: str, customer_id: str | None, detail: Mapping[str, Any]) -> None:
        async def note(connection: Connection) -> None:
            await findings.note(connection, kind, subject, customer_id, detail)

        await self._database.run(note)
