"""What has come of a checkout session for its customer. Pure.

A completed session alone is not enough: of a subscription it carries no items, and what the subscription gives is known only
once that one was observed and folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from billing_service.domain.access import Source, SourceState
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Fact
from billing_service.domain.views import ObjectKind, PaymentStatus, SessionStatus, SessionView


class CheckoutOutcome(StrEnum):
    """What has come of it; the contract's CheckoutOutcome."""

    ENTITLED = "entitled"
    PENDING_PAYMENT = "pending_payment"
    EXPIRED = "expired"
    STILL_OPEN = "still_open"
    PAYMENT_FAILED = "payment_failed"
    NOT_ENTITLED = "not_entitled"
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True)
class Missing:
    """The object that is still to be heard of before there is an outcome."""

    kind: ObjectKind
    object_id: str


def settled(session_id: str, session: ObjectState | None, answer: Entitlements) -> CheckoutOutcome | Missing:
    """Say what has come of a session by what is known of it and of its customer, or what is not known yet."""
    view = session.view if session else None
    if session is None or not isinstance(view, SessionView) or view.status is SessionStatus.OPEN:
        return Missing(ObjectKind.CHECKOUT_SESSION, session_id)
    if view.status is SessionStatus.EXPIRED:
        return CheckoutOutcome.EXPIRED
    return _completed(view, session, answer) or _missing(session_id, view)


def _completed(view: SessionView, session: ObjectState, answer: Entitlements) -> CheckoutOutcome | None:
    """Judge a completed session; None where nothing of it was folded yet, or not what the session says by itself."""
    unpaid = view.payment_status is PaymentStatus.UNPAID
    bought = [source for source in answer.sources if _is_of(source, session.object_id, view.subscription_id)]
    if any(source.gives for source in bought):
        return CheckoutOutcome.ENTITLED
    if unpaid and Fact.PAYMENT_FAILED in session.facts:
        return CheckoutOutcome.PAYMENT_FAILED
    waits = any(source.state is SourceState.PENDING_PAYMENT for source in bought)
    if bought and waits and unpaid:
        return CheckoutOutcome.PENDING_PAYMENT
    # One that waits for its payment although the session says that it is paid was heard of before that.
    return CheckoutOutcome.NOT_ENTITLED if bought and not waits else None


def _missing(session_id: str, view: SessionView) -> Missing:
    if view.subscription_id is not None:
        return Missing(ObjectKind.SUBSCRIPTION, view.subscription_id)
    return Missing(ObjectKind.CHECKOUT_SESSION, session_id)


def unsettled(session: ObjectState | None, asked_since: int) -> CheckoutOutcome:
    """Say what is true of a session that was not settled in time; `asked_since`: Unix seconds by our clock.

    It is open only by Stripe's own word: a read whose request left since then.
    """
    view = session.view if session else None
    is_open = isinstance(view, SessionView) and view.status is SessionStatus.OPEN
    asked = session is not None and session.read is not None and session.read.request_time >= asked_since
    return CheckoutOutcome.STILL_OPEN if is_open and asked else CheckoutOutcome.UNCONFIRMED


def _is_of(source: Source, session_id: str, subscription_id: str | None) -> bool:
    if subscription_id is not None:
        return source.stripe_subscription_id == subscription_id
    return source.stripe_id == session_id
