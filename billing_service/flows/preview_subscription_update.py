"""Says what a change of a subscription would cost, as Stripe works it out now, and which features it would change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from billing_service.domain.access import accesses
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.errors import StripeRefusedError
from billing_service.domain.facts import NO_FACTS, CustomerFacts
from billing_service.domain.subscription import FeatureChange, PreviewRequest, UpdatePreview
from billing_service.domain.subscription_body import Body, period_preview_body, preview_body
from billing_service.domain.subscription_target import Target, find_subscription, target_of
from billing_service.domain.views import ItemView
from billing_service.flows.change_subscription import refusal
from billing_service.flows.prices import Prices
from billing_service.storage import customers
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError

log = structlog.get_logger(__name__)


class PreviewSubscriptionUpdate:
    """Asks Stripe for two invoices that are not made: the one due now, and the one of each period from then on."""

    def __init__(self, database: Database, stripe: StripeApi, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._stripe = stripe
        self._prices = prices
        self._now = now

    async def __call__(self, request: PreviewRequest) -> UpdatePreview:
        """Give what the change would cost and change.

        Raises:
            BillingError: the reasons that the contract lists for this call.
        """
        customer_id = request.customer_id
        rows = await self._database.run(lambda connection: customers.load(connection, [customer_id]))
        row = rows.get(customer_id, CustomerRow(customer_id, 0, NO_FACTS))
        plans = await self._prices.plans_for(row.facts)
        subscription = find_subscription(row.facts, request.subscription_id)
        target = target_of(request.wanted, subscription, plans, self._price_key, at_period_end=request.at_period_end)
        price_id = target.item.price_id
        if target.price is not None:
            price_id = await self._prices.price_id(target.plan, target.price)
        named = None if price_id == target.item.price_id else price_id
        changes_now = not request.at_period_end and (named is not None or target.quantity != target.item.quantity)
        due: Body | None = preview_body(target, request.subscription_id, named) if changes_now else None
        now_invoice = await self._invoice(due) if due is not None else None
        period_invoice = await self._invoice(period_preview_body(target, request.subscription_id, named))
        now = self._now()
        return UpdatePreview(
            currency=period_invoice["currency"].upper(),
            due_now_amount_minor=now_invoice["amount_due"] if now_invoice else 0,
            period_amount_minor=period_invoice["total"],
            proration_amount_minor=proration_amount(now_invoice) if now_invoice else 0,
            effective_time=datetime.fromtimestamp(target.item.period_end, UTC) if request.at_period_end else now,
            plan_key=target.plan.plan_key,
            price_key=target.price_key,
            quantity=target.quantity,
            feature_changes=self._feature_changes(row, target, price_id, now),
        )

    def _price_key(self, item: ItemView) -> str | None:
        return self._prices.price_key_of(item.price_id, item.lookup_key)

    async def _invoice(self, body: Body) -> dict[str, Any]:
        try:
            return (await self._stripe.preview_invoice(body)).object
        except StripeCallError as error:
            log.warning("invoice_not_previewed", error=str(error))
            raise refusal(error) from error

    def _feature_changes(
        self, row: CustomerRow, target: Target, price_id: str, now: datetime
    ) -> tuple[FeatureChange, ...]:
        lookup_key = target.price.lookup_key if target.price else target.item.lookup_key
        changed = replace(target.item, price_id=price_id, lookup_key=lookup_key, quantity=target.quantity)
        before = self._entitlements(row, row.facts, now)
        after = self._entitlements(row, _with_item(row.facts, changed), now)
        pairs = zip(before.entitlements, after.entitlements, strict=True)
        return tuple(FeatureChange(b.feature_key, b.value, a.value) for b, a in pairs if b.value != a.value)

    def _entitlements(self, row: CustomerRow, facts: CustomerFacts, now: datetime) -> Entitlements:
        plans = self._prices.index
        given = accesses(facts, plans.of_price, plans.of_key)
        return fold(row.customer_id, row.revision, given, plans.catalog, now)


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
