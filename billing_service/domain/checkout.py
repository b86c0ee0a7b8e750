"""Attempts to buy, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class CheckoutState(StrEnum):
    """Where an attempt stands, as Stripe told us; the contract's CheckoutSession.State."""

    OPEN = "open"
    PROCESSING = "processing"
    COMPLETE = "complete"
    PAYMENT_FAILED = "payment_failed"
    EXPIRED = "expired"


@dataclass(frozen=True)
class PlanGroup:
    """The plans of which a customer has one attempt at a time, by the catalog of today."""

    name: str  # "group:base"; an add-on is a group by itself, "plan:export_pass"
    plan_keys: tuple[str, ...]


@dataclass(frozen=True)
class CheckoutRequest:
    """What a caller asks for, each field valid by itself."""

    request_id: str
    customer_id: str
    plan_key: str
    price_key: str | None
    quantity: int
    success_url: str
    cancel_url: str
    customer_email: str | None
    allow_promotion_codes: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class CheckoutSession:
    """One attempt to buy, as it is known now."""

    checkout_session_id: str  # Stripe's, "cs_..."
    url: str | None  # None once it is no longer open
    state: CheckoutState
    expire_time: datetime
    create_time: datetime
    customer_id: str
    plan_key: str
    price_key: str
    quantity: int


@dataclass(frozen=True)
class CreatedCheckout:
    """The answer to a CheckoutRequest."""

    session: CheckoutSession
    reused: bool
