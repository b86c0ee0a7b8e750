"""Answers whether a customer may use one feature now, why, and what to buy otherwise."""

from __future__ import annotations

from billing_service.domain.check import Check, check
from billing_service.domain.errors import FeatureNotFoundError
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements


class CheckEntitlement:
    """Judges one feature of a fresh answer."""

    def __init__(self, prices: Prices, read: ReadEntitlements) -> None:
        """`prices` knows the catalog and what can be bought now."""
        self._prices = prices
        self._read = read

    async def __call__(self, customer_id: str, feature_key: str, min_revision: int = 0) -> Check:
        """Give the judgement.

        Raises:
            FeatureNotFoundError: the catalog has no such feature.
            RevisionNotReachedError: the customer stays below `min_revision`.
            DatabaseUnavailableError: it does not answer.
        """
        catalog = self._prices.index.catalog
        if feature_key not in catalog.features:
            raise FeatureNotFoundError("feature_key", feature_key)
        answer = await self._read(customer_id, min_revision)
        for_sale = {plan_key for plan_key, _ in self._prices.available()}
        return check(answer, feature_key, catalog, for_sale)
