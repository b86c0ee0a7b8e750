"""Sessions that were given up, and those that turned out to be paid: settled at Stripe before another page is made."""

from __future__ import annotations

from datetime import datetime

import structlog

from billing_service.domain.checkout import PlanGroup
from billing_service.domain.errors import StripeRefusedError, StripeUnavailableError
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.views import SessionStatus
from billing_service.flows.reads import Reads
from billing_service.logs import named
from billing_service.storage import checkouts
from billing_service.storage.checkouts import Intent, IntentState
from billing_service.storage.database import Database
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite, StripeDenied

log = structlog.get_logger(__name__)


class SupersededSessions:
    """Makes sure that no two pages of a plan group are payable at once, and that what was paid is known."""

    def __init__(self, database: Database, reads: Reads) -> None:
        """Keeps nothing between calls."""
        self._database = database
        self._reads = reads

    async def expire_all(self, customer_id: str, group: PlanGroup) -> None:
        """Expire, at Stripe, every session of the group that was given up; refuse where one turns out to be paid."""
        left = await self._database.run(lambda c: checkouts.expiring(c, customer_id, group))
        for old in left:
            await self.expire(old)
        # Also where nothing was left: a webhook, or an earlier try of this call, may have settled it meanwhile.
        await self.hear_of_completed(customer_id, group)

    async def hear_of_completed(self, customer_id: str, group: PlanGroup) -> None:
        """Read what was bought in the group and not heard of yet: a completed session carries no items."""
        sessions = await self._database.run(lambda c: checkouts.unheard(c, customer_id, group))
        for session_id in sessions:
            try:
                await self._heard(session_id)
            except (StripeCallError, MalformedError) as error:
                raise _away(error) from error

    async def hear_of_trials(self, customer_id: str, now: datetime) -> None:
        """Read what became of pages with a trial, of any group, whose time is over: one may have been paid in its last minute."""
        for page in await self._database.run(lambda c: checkouts.overdue_trials(c, customer_id, now)):
            try:
                status = await self._heard(page.checkout_session_id or "")
            except (StripeCallError, MalformedError) as error:
                raise _away(error) from error
            if status is not SessionStatus.OPEN:
                await self._over(page)

    async def expire(self, old: Intent) -> None:
        """Make sure that a session is not payable any more, and fold what became of it."""
        try:
            status = await self._expired(old.checkout_session_id or "")
        except (StripeCallError, MalformedError) as error:
            raise _away(error) from error
        if status is SessionStatus.OPEN:  # Stripe refused for a moment, and the page can still be paid on
            raise StripeUnavailableError
        await self._over(old)

    async def _over(self, page: Intent) -> None:
        """Record that nobody can pay on a page; what Stripe said of it has been recorded by its read, and stands."""
        await self._database.run(lambda c: checkouts.move(c, page.intent_id, page.state, IntentState.SUPERSEDED))

    async def _expired(self, session_id: str) -> SessionStatus | None:
        """Expire a session and give its status then, as `_heard` does."""
        try:
            return (await self._reads.expire_checkout_session(session_id)).status
        except StripeDefinite as error:
            if error.is_server_error:
                raise
        return await self._heard(session_id)  # it is not open any more: paid just now, or expired

    async def _heard(self, session_id: str) -> SessionStatus | None:
        """Read a session, and the subscription that it made, and give its status.

        None where Stripe denies that it exists, so that nobody can pay it, or that its subscription does: there is none then.
        """
        try:
            return (await self._reads.checkout_session(session_id)).status
        except StripeDefinite as error:
            if not error.missing:
                raise
            log.warning("session_or_its_subscription_unknown_to_stripe", checkout_session_id=session_id)
            return None


def _away(error: Exception) -> Exception:
    log.warning("stripe_read_failed", error=named(error))
    return StripeRefusedError() if isinstance(error, StripeDenied) else StripeUnavailableError()
