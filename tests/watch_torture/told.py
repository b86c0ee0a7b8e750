"""What is compared of a customer's entitlements: everything that a caller can act on, as one text."""

from __future__ import annotations

from billing.v1.entitlement_pb2 import GetEntitlementsResponse
from billing_client.cache import value_of


def told_of(entitlements: GetEntitlementsResponse) -> str:
    """Give plans and values."""
    values = (f"{one.feature_key}={value_of(one.value)}" for one in entitlements.entitlements)
    return " ".join((*entitlements.plan_keys, *values))
