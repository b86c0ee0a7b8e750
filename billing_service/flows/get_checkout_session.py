"""Says where one attempt to buy stands, as Stripe told us."""

from __future__ import annotations

from billing_service.domain.checkout import CheckoutSession, CheckoutState
from billing_service.domain.errors import CheckoutSessionNotFoundError
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Fact
from billing_service.domain.views import PaymentStatus, SessionStatus, SessionView
from billing_service.storage import checkouts, objects
from billing_service.storage.checkouts import Intent, IntentState
from billing_service.storage.database import Connection, Database


class GetCheckoutSession:
    """Reads our record, and what is known of Stripe's."""

    def __init__(self, database: Database) -> None:
        """Needs nothing else: the answer is ours."""
        self._database = database

    async def __call__(self, checkout_session_id: str) -> CheckoutSession:
        """Give the session as it is known now.

        Raises:
            CheckoutSessionNotFoundError: no session of ours has this id.
            DatabaseUnavailableError: it does not answer.
        """

        async def load(connection: Connection) -> CheckoutSession | None:
            intent = await checkouts.find_session(connection, checkout_session_id)
            return None if intent is None else await described(connection, intent)

        session = await self._database.run(load)
        if session is None:
            raise CheckoutSessionNotFoundError(checkout_session_id)
        return session


async def described(connection: Connection, intent: Intent) -> CheckoutSession:
    """Give an intent whose Stripe session is known as the contract's session."""
    session_id = intent.checkout_session_id or ""
    state = _state(intent, await objects.find(connection, session_id))
    return CheckoutSession(
        checkout_session_id=session_id,
        url=intent.url if state is CheckoutState.OPEN else None,
        state=state,
        expire_time=intent.expire_time,
        create_time=intent.create_time,
        customer_id=intent.customer_id,
        plan_key=intent.plan_key,
        price_key=intent.price_key,
        quantity=intent.quantity,
    )


def _state(intent: Intent, known: ObjectState | None) -> CheckoutState:
    view = known.view if known else None
    if known is None or not isinstance(view, SessionView) or view.status is SessionStatus.OPEN:
        # Nothing was heard from Stripe, so it is what we last did with it.
        opened = intent.state in {IntentState.CREATING, IntentState.OPEN}
        return CheckoutState.OPEN if opened else CheckoutState.EXPIRED
    if view.status is SessionStatus.EXPIRED:
        return CheckoutState.EXPIRED
    if view.payment_status is not PaymentStatus.UNPAID:
        return CheckoutState.COMPLETE
    return CheckoutState.PAYMENT_FAILED if Fact.PAYMENT_FAILED in known.facts else CheckoutState.PROCESSING
