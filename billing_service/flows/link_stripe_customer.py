"""Binds a Stripe customer to a customer by hand, once Stripe has shown that there is one; what was parked takes effect with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from billing_service.domain.errors import (
    BindingContradictedError,
    StripeCustomerNotFoundError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import Observation, is_deleted_customer
from billing_service.domain.operator import Operation, Order
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import ObjectKind
from billing_service.flows.apply import Context, refold
from billing_service.flows.operator_request import Asked, answered, once
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.logs import named
from billing_service.storage import customers, findings, stripe_customers
from billing_service.storage.database import Connection, Database
from billing_service.storage.findings import FindingKind
from billing_service.storage.history import Cause, CauseKind
from billing_service.stripe_api.errors import StripeBusy, StripeCallError, StripeDefinite, StripeNoAnswer

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LinkWish:
    """Which Stripe customer is to be whose; `replace`: whoever it is bound to, or says it belongs to."""

    customer_id: str
    stripe_customer_id: str
    replace: bool


@dataclass(frozen=True)
class Linked:
    """The binding that was made."""

    stripe_customer_id: str
    bind_time: datetime
    current: bool
    revision: int
    replaced_customer_id: str | None


class LinkStripeCustomer:
    """Makes bindings by hand."""

    def __init__(self, database: Database, reads: Reads, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._reads = reads
        self._prices = prices
        self._now = now

    async def __call__(self, order: Order, wish: LinkWish) -> Linked:
        """Bind, and give the binding.

        Raises:
            StripeCustomerNotFoundError: Stripe has no such customer.
            BindingContradictedError: it is somebody else's, and that is not to be replaced, or is another deployment's.
            StripeUnavailableError: Stripe does not answer.
            StripeRefusedError: Stripe refuses to say.
            RequestIdReusedError: the request id was used for something else.
        """
        asked = Asked(order, Operation.LINK_STRIPE_CUSTOMER, wish, wish.customer_id)
        before = await self._database.run(lambda connection: answered(connection, asked, Linked))
        if before is not None:
            return before
        seen = await self._seen(wish.stripe_customer_id)
        if not self._reads.is_ours(seen):
            raise BindingContradictedError(metadata={"deployment": seen.claim.deployment or ""})
        plans = await self._prices.plans()
        return await self._database.run(
            lambda connection: once(connection, asked, Linked, lambda: self._link(connection, wish, seen, plans))
        )

    async def _seen(self, stripe_customer_id: str) -> Observation:
        try:
            return await self._reads.object(ObjectKind.CUSTOMER, stripe_customer_id)
        except (StripeNoAnswer, StripeBusy) as error:
            raise StripeUnavailableError from error
        except StripeDefinite as error:
            if error.missing:
                raise StripeCustomerNotFoundError(stripe_customer_id) from error
            if error.is_server_error:
                raise StripeUnavailableError from error
            raise _refused(error) from error
        except (StripeCallError, MalformedError) as error:
            raise _refused(error) from error

    async def _link(self, connection: Connection, wish: LinkWish, seen: Observation, plans: PlanIndex) -> Linked:
        stripe_id, customer_id = wish.stripe_customer_id, wish.customer_id
        owner = (await stripe_customers.lock(connection, [stripe_id]))[stripe_id]
        claimed = seen.claim.customer_id
        others = {"bound_customer_id": owner, "claimed_customer_id": claimed}
        contradicting = {name: other for name, other in others.items() if other is not None and other != customer_id}
        if contradicting and not wish.replace:
            raise BindingContradictedError(metadata=contradicting)
        touched = {customer_id} if owner is None else {customer_id, owner}
        customers.lock(connection, touched)
        stripe_customers.rebind(connection, stripe_id, customer_id)
        if owner is not None and owner != customer_id:
            await customers.leave_stripe_customer(connection, owner, stripe_id)
        if not is_deleted_customer(seen.view):
            await customers.set_stripe_customer(connection, customer_id, stripe_id)
        await _settle(connection, stripe_id, customer_id, claimed)
        await refold(
            connection,
            touched,
            Context(plans, self._now()),
            Cause(CauseKind.BINDING, stripe_id),
        )
        return await _linked(connection, wish, owner)


async def _settle(connection: Connection, stripe_id: str, customer_id: str, claimed: str | None) -> None:
    """Close what was found about the binding. What its metadata goes on saying was decided here, and is not found anew."""
    if claimed is not None and claimed != customer_id:
        detail = {"stripe_customer_id": stripe_id, "claimed_customer_id": claimed}
        findings.note(connection, FindingKind.BINDING_CONTRADICTED, stripe_id, customer_id, detail)
    await findings.close(connection, FindingKind.BINDING_CONTRADICTED, [stripe_id])


async def _linked(connection: Connection, wish: LinkWish, owner: str | None) -> Linked:
    bindings = await stripe_customers.bindings(connection, wish.customer_id)
    binding = next(one for one in bindings if one.stripe_customer_id == wish.stripe_customer_id)
    row = (await customers.load(connection, [wish.customer_id]))[wish.customer_id]
    return Linked(
        stripe_customer_id=binding.stripe_customer_id,
        bind_time=binding.bind_time,
        current=binding.current,
        revision=row.revision,
        replaced_customer_id=None if owner == wish.customer_id else owner,
    )


def _refused(error: Exception) -> StripeRefusedError:
    log.warning("stripe_customer_not_read", error=named(error))
    code = error.code if isinstance(error, StripeDefinite) else None
    return StripeRefusedError(metadata={"stripe_code": code} if code else None)
