"""Our own verified reads of Stripe: fenced before the request leaves, merged like events.

What Stripe answers to a change that we ask for (expiring a session) is such a read too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from time import monotonic
from typing import Any

from billing_service.domain.merge import ObjectState, of_read
from billing_service.domain.observation import Fact, Observation, observe
from billing_service.domain.views import ObjectKind, SessionView, has_more_items
from billing_service.flows.apply import Context, apply
from billing_service.flows.arrival import Arrival
from billing_service.flows.prices import Prices
from billing_service.storage import objects, told_facts
from billing_service.storage.database import Connection, Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.listing import EXPANDED
from billing_service.stripe_api.sdk import Read

# Finishes what a call has left unfinished about a subscription that was read; raises what a read raises where that cannot be done now.
FinishLeft = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class _Drawn:
    """What is fixed before a request leaves."""

    fence: int
    known: ObjectState | None
    request_time: int  # Unix seconds, by our clock
    drawn_at: float  # of `monotonic`
    was_told: bool  # whether anything tells that a checkout session was completed

    def left_by(self, server_time: int) -> int:
        """Say in which second the request left: by our clock, or by Stripe's in the answer less the time that it took, if that is earlier.

        A clock of ours that runs ahead would have the read hide what came to be while it was under way.
        """
        if not server_time:
            return self.request_time
        return min(self.request_time, ceil(server_time - (monotonic() - self.drawn_at)))

    @property
    def known_created(self) -> int | None:
        """When the payload that was known then was made."""
        return self.known.payload.created if self.known and self.known.payload else None


@dataclass(frozen=True)
class Verified:
    """What Stripe answered, and what was held before; None where nothing was known of the object."""

    seen: Observation
    before: ObjectState | None

    @property
    def differs(self) -> bool:
        """Whether what was held is not what Stripe has."""
        if self.before is None or self.before.view != self.seen.view:
            return True
        return self.seen.payment_failed and Fact.PAYMENT_FAILED not in self.before.facts


class Reads:
    """Reads objects from Stripe and folds what it answers."""

    def __init__(
        self, database: Database, stripe: StripeApi, prices: Prices, deployment: str, now: Callable[[], datetime]
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self.deployment = deployment
        self._now = now

    def is_ours(self, seen: Observation) -> bool:
        """Say whether an object is of this deployment, or of none."""
        return seen.claim.deployment in {None, self.deployment}

    async def checkout_session(self, session_id: str) -> SessionView:
        """Read a session, and the subscription that it names, and fold both.

        Raises:
            StripeCallError: Stripe did not answer with it.
            MalformedError: it answered something that is not understood.
            DatabaseUnavailableError: what it answered could not be written.
        """
        call = lambda: self._stripe.get_checkout_session(session_id, expand=EXPANDED["checkout.session"])  # noqa: E731 - one line says it
        return await self._session(session_id, call)

    async def expire_checkout_session(self, session_id: str) -> SessionView:
        """Expire an open session at Stripe and fold what it answers. Raises as `checkout_session` does."""
        return await self._session(session_id, lambda: self._stripe.expire_checkout_session(session_id))

    async def subscription(self, subscription_id: str) -> Observation:
        """Read a subscription and fold it. Raises as `checkout_session` does."""
        return await self.object(ObjectKind.SUBSCRIPTION, subscription_id)

    async def object(self, kind: ObjectKind, object_id: str) -> Observation:
        """Read an object of any kind, with its latest invoice where it is a subscription, and fold it.

        Raises as `checkout_session` does.
        """
        return (await self.verify(kind, object_id)).seen

    async def verify(self, kind: ObjectKind, object_id: str) -> Verified:
        """Read an object and fold it, and say what was held before. Raises as `checkout_session` does."""
        return await self._fold(object_id, kind, lambda: self._stripe.listing.get(kind.value, object_id))

    async def _session(self, session_id: str, call: Callable[[], Awaitable[Read]]) -> SessionView:
        view = (await self._fold(session_id, ObjectKind.CHECKOUT_SESSION, call)).seen.view
        if not isinstance(view, SessionView):
            raise TypeError("a session's view is a SessionView")
        if view.subscription_id is not None:
            await self.subscription(view.subscription_id)
        return view

    async def subscription_object(self, subscription_id: str) -> Mapping[str, Any]:
        """Read a subscription as `subscription` does, and give Stripe's own JSON."""
        drawn = await self._draw(subscription_id)
        answer = await self._stripe.listing.get(ObjectKind.SUBSCRIPTION.value, subscription_id)
        await self._merge(drawn, answer, ObjectKind.SUBSCRIPTION)
        return answer.object

    async def changed_subscription(
        self, subscription_id: str, change: Callable[[], Awaitable[Read]]
    ) -> Mapping[str, Any]:
        """Have a subscription changed, fold what Stripe answers, and give it. Raises as `checkout_session` does.

        An answer that Stripe replays says what was when the key was first used, and one of many items has not all of them: it is
        not folded, but read anew.
        """
        drawn = await self._draw(subscription_id)
        answer = await change()
        if answer.replayed or has_more_items(answer.object):
            return await self.subscription_object(subscription_id)
        await self._merge(drawn, answer, ObjectKind.SUBSCRIPTION)
        return answer.object

    async def _fold(self, object_id: str, kind: ObjectKind, call: Callable[[], Awaitable[Read]]) -> Verified:
        drawn = await self._draw(object_id)
        seen = await self._merge(drawn, await call(), kind)
        return Verified(seen, drawn.known)

    async def _draw(self, object_id: str) -> _Drawn:
        """Draw the fence of a read whose request has not left yet."""

        async def draw(connection: Connection) -> tuple[int, ObjectState | None, bool]:
            known = await objects.find(connection, object_id)
            is_told = await told_facts.wait(connection, object_id)
            return await objects.draw_fence(connection), known, is_told

        fence, known, is_told = await self._database.run(draw)
        was_told = is_told or (known is not None and known.tells_of_completion)
        return _Drawn(fence, known, int(self._now().timestamp()), monotonic(), was_told)

    async def _merge(self, drawn: _Drawn, answer: Read, kind: ObjectKind) -> Observation:
        """Merge what Stripe answered, and what the answer brought along; what is another deployment's is left out."""
        seen = observe(answer.object, kind)
        arrivals = [
            Arrival(
                of_read(
                    one,
                    fence=drawn.fence,
                    request_time=drawn.left_by(answer.server_time),
                    server_time=answer.server_time,
                    known_created=drawn.known_created if one is seen else None,
                    was_told=drawn.was_told and one is seen,
                ),
                one.claim,
                one.anchors,
                read_id=seen.object_id,
            )
            for one in [seen, *_expanded(answer.object, kind)]
            if self.is_ours(one)
        ]
        if arrivals:
            context = Context(await self._prices.plans(), self._now())
            await self._database.run(lambda connection: apply(connection, arrivals, context, self.deployment))
        return seen


def _expanded(body: Mapping[str, Any], kind: ObjectKind) -> list[Observation]:
    """Give what a read brought along: a subscription's latest invoice."""
    invoice = body.get("latest_invoice") if kind is ObjectKind.SUBSCRIPTION else None
    return [observe(invoice, ObjectKind.INVOICE)] if isinstance(invoice, Mapping) else []
