"""Facts + policy -> access: what each source gives, in which state, and in which window of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SourceType(StrEnum):
    """What kind of thing gives access."""

    DEFAULT_PLAN = "default_plan"
    SUBSCRIPTION = "subscription"
    PURCHASE = "purchase"


class SourceState(StrEnum):
    """Why a source gives access now, or why not; the contract's Source.State says each in words."""

    ACTIVE = "active"
    TRIALING = "trialing"
    GRACE = "grace"
    ENDING = "ending"
    PENDING_PAYMENT = "pending_payment"
    PAYMENT_OVERDUE = "payment_overdue"
    PAUSED = "paused"
    ENDED = "ended"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True)
class Source:
    """What gives a customer access to a plan, as it stands at one moment."""

    type: SourceType
    state: SourceState
    plan_key: str | None  # None while unresolved
    quantity: int
    stripe_id: str | None  # "si_..." or "cs_..."; None for the default plan
    stripe_subscription_id: str | None
    start_time: datetime | None
    end_time: datetime | None  # None: open-ended
