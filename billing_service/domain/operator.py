"""What operators ask for, as values: who, why, and what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from billing_service.domain.access import SourceState, accesses
from billing_service.domain.entitlement import fold
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.grant import GrantFacts
from billing_service.domain.plan_index import PlanIndex


class Operation(StrEnum):
    """What operators do; kept with each request under this name."""

    CREATE_GRANT = "create_grant"
    REVOKE_GRANT = "revoke_grant"
    LINK_STRIPE_CUSTOMER = "link_stripe_customer"
    REPLAY_EVENTS = "replay_events"
    RECONCILE = "reconcile"
    CLOSE_FINDING = "close_finding"
    ERASE_CUSTOMER = "erase_customer"
    DISCARD_QUARANTINED_EVENT = "discard_quarantined_event"


@dataclass(frozen=True)
class Order:
    """Who asks for something, why, and the caller's id of the request."""

    request_id: str
    actor: str  # in their own words
    reason: str
    identity: str | None = None  # by what they showed; None: whoever works on the database itself


@dataclass(frozen=True)
class GrantWish:
    """A grant that is asked for; either `plan_key` is there, or `feature_key`."""

    customer_id: str
    override: bool
    start: datetime | None  # None: now
    end: datetime | None
    plan_key: str | None = None
    quantity: int = 1
    feature_key: str | None = None
    value: bool | int | str | None = None  # None: unlimited

    def facts(self, grant_id: str, start: datetime) -> GrantFacts:
        """Give it as it stands among the facts of the customer."""
        return GrantFacts(
            grant_id, start, self.end, self.override, self.plan_key, self.quantity, self.feature_key, self.value
        )


@dataclass(frozen=True)
class Grant:
    """A grant with its record."""

    customer_id: str
    facts: GrantFacts  # as it was given; its end is `revoke_time` once that is there and earlier
    actor: str
    reason: str
    create_time: datetime
    revoke_time: datetime | None = None
    revoke_actor: str | None = None
    revoke_reason: str | None = None
    identity: str | None = None  # as in an order, and so is the next
    revoke_identity: str | None = None

    def state(self, plans: PlanIndex, now: datetime) -> SourceState:
        """Say where it stands, as a source of its customer says it."""
        if self.revoke_time is not None:
            return SourceState.ENDED
        given = accesses(CustomerFacts(grants=(self.facts,)), plans.of_price, plans.of_key)
        return fold(self.customer_id, 0, given, plans.catalog, now).sources[0].state


@dataclass(frozen=True)
class StandingGrant:
    """A grant, and where it stands at a moment."""

    grant: Grant
    state: SourceState
