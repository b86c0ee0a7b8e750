"""Changes of subscriptions as they are committed: what is asked, what is sent, who carries it out, what came of it.

Every function here is one short transaction. The order of locks is that of `apply`; a change comes after its customer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from billing_service.deadline import deadline_after
from billing_service.domain.errors import DatabaseUnavailableError, RequestIdReusedError, RequestInProgressError
from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.domain.subscription import ChangeRequest, Operation, Subscription
from billing_service.domain.subscription_target import find_subscription
from billing_service.domain.views import ObjectKind
from billing_service.storage import customers, rereads, subscription_requests
from billing_service.storage.database import Connection, Database
from billing_service.storage.rereads import Ask
from billing_service.storage.subscription_requests import Change, ChangeState

RESUME_LIMIT = timedelta(hours=23)  # Stripe keeps an idempotency key for at least 24 hours
BUSY = timedelta(seconds=60)  # longer than a call may take: its deadline is capped at that
LEFT_AFTER_S = 90  # and then nobody is at it any more
LAST_WORD_S = 0.2  # less than what the listener leaves between our deadline and the caller's

Describe = Callable[[CustomerFacts], Subscription]


class SubscriptionIntents:
    """The changes of all subscriptions."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._now = now

    async def find(self, request_id: str) -> Change | None:
        """Give what a request id was used for, or None."""
        return await self._database.run(lambda connection: subscription_requests.find(connection, request_id))

    async def facts(self, customer_id: str) -> CustomerFacts:
        """Give what a customer has."""
        return await self._database.run(lambda connection: _facts(connection, customer_id))

    def is_stale(self, change: Change) -> bool:
        """Say whether a change was left unfinished for so long that Stripe may have forgotten its keys."""
        return change.state is ChangeState.CHANGING and change.create_time < self._now() - RESUME_LIMIT

    async def begin(self, request: ChangeRequest, fingerprint: bytes) -> Change:
        """Give the change that a request resumes or begins, committed.

        Raises:
            RequestIdReusedError: the id was used for something else.
            SubscriptionNotFoundError, SubscriptionNotLiveError: as they say.
            RequestInProgressError: another change of the subscription is being carried out.
        """

        async def commit(connection: Connection) -> Change:
            await customers.lock(connection, [request.customer_id])
            change = await subscription_requests.find(connection, request.request_id)
            if change is not None and change.fingerprint != fingerprint:
                raise RequestIdReusedError
            if change is not None and not self.is_stale(change):
                return change
            if change is not None:
                await subscription_requests.forget(connection, change)
            find_subscription(await _facts(connection, request.customer_id), request.subscription_id)
            await self._clear(connection, request.subscription_id)
            change = self._new(request, fingerprint)
            if not await subscription_requests.insert(connection, change):  # another customer's call was quicker
                raise RequestIdReusedError
            return change

        return await self._database.run(commit)

    async def _clear(self, connection: Connection, subscription_id: str) -> None:
        """Give up an unfinished change of the subscription, unless somebody is carrying it out right now."""
        other = await subscription_requests.unfinished(connection, subscription_id)
        if other is not None and not await subscription_requests.supersede(connection, other.intent_id, self._now()):
            raise RequestInProgressError("Another change of this subscription is being carried out; call again.")

    def _new(self, request: ChangeRequest, fingerprint: bytes) -> Change:
        now = self._now()
        return Change(
            request_id=request.request_id,
            intent_id=uuid4(),
            fingerprint=fingerprint,
            customer_id=request.customer_id,
            subscription_id=request.subscription_id,
            operation=request.operation,
            state=ChangeState.CHANGING,
            attempt=1,
            item_id=None,
            request_body=None,
            busy_until=now + BUSY,
            answer=None,
            create_time=now,
        )

    async def hold(self, change: Change) -> datetime | None:
        """Keep other changes away while this one is carried out; None where it is not to be made any more."""
        until = self._now() + BUSY
        held = await self._database.run(lambda c: subscription_requests.hold(c, change.intent_id, until))
        return until if held else None

    async def look_after(self, change: Change) -> None:
        """Have the subscription read again once nobody can be at the change any more, whatever becomes of this process."""

        async def commit(connection: Connection) -> None:
            rereads.ask(connection, [Ask(change.subscription_id, ObjectKind.SUBSCRIPTION, LEFT_AFTER_S)])

        await self._database.run(commit)

    async def unfinished(self, subscription_id: str) -> Change | None:
        """Give the one change of a subscription that is not done, or None."""
        return await self._database.run(lambda c: subscription_requests.unfinished(c, subscription_id))

    async def take_over(self, change: Change) -> datetime:
        """Keep others away from a change that was left, and say until when.

        Raises:
            RequestInProgressError: somebody is carrying it out, or it has come to its end since it was found.
        """
        now = self._now()
        taken = await self._database.run(
            lambda c: subscription_requests.take_over(c, change.intent_id, now, now + BUSY)
        )
        if not taken:
            raise RequestInProgressError
        return now + BUSY

    async def let_others_in(self, change: Change, until: datetime) -> None:
        """Say that nobody carries the change out now, unless another call has taken it up since.

        The caller's deadline may have passed, and the hold ends by itself.
        """
        with suppress(DatabaseUnavailableError), deadline_after(LAST_WORD_S):
            await self._database.run(lambda c: subscription_requests.let_go(c, change.intent_id, until))

    async def prepare(self, change: Change, item_id: str, body: Mapping[str, Any]) -> Change:
        """Fix, once, what Stripe is sent in this attempt, and give the change as it is then. Raises as `again`."""

        async def commit(connection: Connection) -> Change:
            await subscription_requests.prepare(connection, change, item_id, body)
            return await _again(connection, change)

        return await self._database.run(commit)

    async def end_attempt(self, change: Change) -> None:
        """Take the next idempotency keys, unless that was done; `change` has the attempt whose key Stripe has answered.

        An update is worked out anew for them: its guards, its price and, where it names none, its quantity are those of
        then. To resume stays what it was: rendered anew it would take back the next thing.
        """
        anew = change.operation in {Operation.UPDATE_NOW, Operation.UPDATE_AT_PERIOD_END}
        await self._database.run(lambda c: subscription_requests.next_attempt(c, change, anew=anew))

    async def again(self, change: Change) -> Change:
        """Give a change as it is now.

        Raises:
            RequestInProgressError: another call with its id was refused and forgot it.
        """
        return await self._database.run(lambda connection: _again(connection, change))

    async def finish(self, change: Change, describe: Describe) -> Change:
        """Store the answer, compare and set, and give the change as it is then. Raises as `again`."""

        async def commit(connection: Connection) -> Change:
            await customers.lock(connection, [change.customer_id])
            answer = describe(await _facts(connection, change.customer_id))
            await subscription_requests.finish(connection, change.intent_id, answer)
            return await _again(connection, change)

        return await self._database.run(commit)

    async def forget(self, change: Change) -> None:
        """Drop a change of which nothing came, so that its request id may be used again."""
        await self._database.run(lambda c: subscription_requests.forget(c, change))

    async def forget_unprepared(self, change: Change) -> bool:
        """Drop a change of which nothing can have come; say False where another call has prepared it, or dropped it."""
        return await self._database.run(lambda c: subscription_requests.forget_unprepared(c, change.intent_id))


async def _again(connection: Connection, change: Change) -> Change:
    found = await subscription_requests.find(connection, change.request_id)
    if found is None or found.intent_id != change.intent_id:
        raise RequestInProgressError
    return found


async def _facts(connection: Connection, customer_id: str) -> CustomerFacts:
    row = (await customers.load(connection, [customer_id])).get(customer_id)
    return NO_FACTS if row is None else row.facts
