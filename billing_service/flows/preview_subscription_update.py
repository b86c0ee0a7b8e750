"""Says what a change of a subscription would cost, as Stripe works it out now, and which features it would change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.errors import StripeRefusedError, StripeUnavailableError
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.frozen import replace
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.subscription import FeatureChange, PreviewRequest, UpdatePreview
from billing_service.domain.subscription_body import Body, period_preview_body, preview_body
from billing_service.domain.subscription_target import Target
from billing_service.domain.views import ItemView
from billing_service.flows.change_subscription import is_about_price, refusal
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.flows.subscription_drafts import Known, SubscriptionDrafts, require_nothing_pending
from billing_service.logs import named
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError

log = structlog.get_logger(__name__)


class PreviewSubscriptionUpdate:
    """Asks Stripe for two invoices that are not made: the one due now, and the one of each period from then on."""

    def __init__(
        self, database: Database, stripe: StripeApi, prices: Prices, reads: Reads, now: Callable[[], datetime]
    ) -> None:
        """`now` is the one clock of the process."""
        self._stripe = stripe
        self._prices = prices
        self._drafts = SubscriptionDrafts(database, stripe, prices, reads)
        self._now = now

    async def __call__(self, request: PreviewRequest) -> UpdatePreview:
        """Give what the change would cost and change. The subscription is read first, as the change would.

        Raises:
            BillingError: the reasons that the contract lists for this call.
        """
        customer_id, subscription_id = request.customer_id, request.subscription_id
        self._target(request, await self._drafts.known(customer_id, subscription_id))
        try:
            return await self._asked(request)
        except StripeCallError as error:
            log.warning("update_not_previewed", error=named(error))
            raise refusal(error) from error
        except MalformedError as error:
            log.warning("subscription_not_understood", subscription_id=subscription_id, error=named(error))
            raise StripeUnavailableError from error

    async def _asked(self, request: PreviewRequest) -> UpdatePreview:
        """Ask, and once more where Stripe refused a price: it may have moved since we last asked for those."""
        try:
            return await self._as_of_now(request)
        except StripeCallError as error:
            if not is_about_price(error):
                raise
            await self._prices.refresh()
            return await self._as_of_now(request)

    async def _as_of_now(self, request: PreviewRequest) -> UpdatePreview:
        """Refuse what the change would be refused for, by what Stripe says now, or give the preview."""
        found = await self._drafts.fresh(request.subscription_id)
        await self._drafts.own_schedule(found)
        require_nothing_pending(found)
        known = await self._drafts.known(request.customer_id, request.subscription_id)
        target = self._target(request, known)
        return await self._preview(request, known, target, await self._drafts.price_id(target))

    def _target(self, request: PreviewRequest, known: Known) -> Target:
        return self._drafts.target(request.wanted, known, at_period_end=request.at_period_end)

    async def _preview(
        self, request: PreviewRequest, known: Known, target: Target, price_id: str | None
    ) -> UpdatePreview:
        """Ask Stripe; `price_id` None: the item stays on its price."""
        subscription_id, now = request.subscription_id, self._now()
        changes_now = not request.at_period_end and (price_id is not None or target.quantity != target.item.quantity)
        due = await self._invoice(preview_body(target, subscription_id, price_id)) if changes_now else None
        period = await self._invoice(period_preview_body(target, subscription_id, price_id))
        return UpdatePreview(
            currency=period["currency"].upper(),
            due_now_amount_minor=due["amount_due"] if due else 0,
            period_amount_minor=period["total"],
            proration_amount_minor=proration_amount(due) if due else 0,
            effective_time=datetime.fromtimestamp(target.item.period_end, UTC) if request.at_period_end else now,
            plan_key=target.plan.plan_key,
            price_key=target.price_key,
            quantity=target.quantity,
            feature_changes=_feature_changes(known, target, price_id or target.item.price_id, now),
        )

    async def _invoice(self, body: Body) -> dict[str, Any]:
        return (await self._stripe.preview_invoice(body)).object


def _feature_changes(known: Known, target: Target, price_id: str, now: datetime) -> tuple[FeatureChange, ...]:
    """Fold what the customer has with and without the change. The new price is its plan's, whatever else is remembered."""
    lookup_key = target.price.lookup_key if target.price else target.item.lookup_key
    changed = replace(target.item, price_id=price_id, lookup_key=lookup_key, quantity=target.quantity)
    plans = known.plans.remembering({price_id: target.plan.plan_key})
    known = replace(known, plans=plans)
    before = _entitlements(known, known.row.facts, now)
    after = _entitlements(known, _with_item(known.row.facts, changed), now)
    pairs = zip(before.entitlements, after.entitlements, strict=True)
    return tuple(FeatureChange(b.feature_key, b.value, a.value) for b, a in pairs if b.value != a.value)


def _entitlements(known: Known, facts: CustomerFacts, now: datetime) -> Entitlements:
    given = accesses(facts, known.plans.of_price, known.plans.of_key)
    return fold(known.row.customer_id, known.row.revision, given, known.plans.catalog, now)


def _with_item(facts: CustomerFacts, changed: ItemView) -> CustomerFacts:
    """Give what a customer would have with one item in place of the one of the same id."""
    subscriptions = tuple(
        replace(one, items=tuple(changed if item.item_id == changed.item_id else item for item in one.items))
        for one in facts.subscriptions
    )
    return replace(facts, subscriptions=subscriptions)


def proration_amount(invoice: dict[str, Any]) -> int:
    """Sum the proration lines of a previewed invoice, in the currency's smallest unit.

    Raises:
        StripeRefusedError: it has more lines than one answer holds; a sum over some of them would be wrong.
    """
    lines = invoice["lines"]
    if lines["has_more"]:
        log.warning("preview_too_long", lines=len(lines["data"]))
        raise StripeRefusedError("The change touches more lines than a preview can hold.")
    return sum(line["amount"] for line in lines["data"] if _is_proration(line))


def _is_proration(line: dict[str, Any]) -> bool:
    parent = line.get("parent") or {}
    details = parent.get(parent.get("type", ""), None) or {}
    return details.get("proration") is True
