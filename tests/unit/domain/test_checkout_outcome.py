"""What has come of a checkout session: a row for each combination of what is known of it and of its customer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing_service.domain.access import Source, SourceState, SourceType
from billing_service.domain.checkout_outcome import CheckoutOutcome, Missing, settled, unsettled
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.merge import ObjectState, Payload, Read
from billing_service.domain.observation import Fact
from billing_service.domain.views import ObjectKind, PaymentStatus, SessionStatus, SessionView

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SESSION = Missing(ObjectKind.CHECKOUT_SESSION, "cs_1")
SUBSCRIPTION = Missing(ObjectKind.SUBSCRIPTION, "sub_1")
GIVES, WAITS, OVER = SourceState.ACTIVE, SourceState.PENDING_PAYMENT, SourceState.REFUNDED
UNPAID = PaymentStatus.UNPAID


def session(
    status: SessionStatus = SessionStatus.COMPLETE,
    payment: PaymentStatus = PaymentStatus.PAID,
    *,
    subscription_id: str | None = None,
    failed: bool = False,
    asked: int | None = None,
) -> ObjectState:
    mode = "payment" if subscription_id is None else "subscription"
    view = SessionView(status, payment, mode, 1_000, subscription_id, None, "export_pass", None, 1)
    facts = {Fact.PAYMENT_FAILED: 1_001} if failed else {}
    read = None if asked is None else Read(2, asked, asked, view)
    return ObjectState("cs_1", ObjectKind.CHECKOUT_SESSION, "cus_1", Payload(1_000, "evt_1", 1, view), read, facts)


def answer(*states: SourceState, stripe_id: str = "cs_1", subscription_id: str | None = None) -> Entitlements:
    kind = SourceType.PURCHASE if subscription_id is None else SourceType.SUBSCRIPTION
    found = tuple(Source(kind, state, "export_pass", 1, stripe_id, subscription_id, NOW, None) for state in states)
    return Entitlements("ada", 1, (), found, (), NOW, None, "v")


@pytest.mark.parametrize(
    ("known", "sources", "outcome"),
    [
        (None, (), SESSION),
        (session(SessionStatus.OPEN, UNPAID), (), SESSION),
        (session(SessionStatus.EXPIRED, UNPAID), (), CheckoutOutcome.EXPIRED),
        (session(), (), SESSION),
        (session(), (GIVES,), CheckoutOutcome.ENTITLED),
        (session(), (OVER, GIVES), CheckoutOutcome.ENTITLED),
        (session(), (OVER,), CheckoutOutcome.NOT_ENTITLED),
        (session(failed=True), (), SESSION),
        (session(), (WAITS,), SESSION),  # heard of before it was paid
        (session(), (WAITS, OVER), SESSION),
        (session(payment=UNPAID), (WAITS,), CheckoutOutcome.PENDING_PAYMENT),
        (session(payment=UNPAID), (OVER,), CheckoutOutcome.NOT_ENTITLED),
        (session(payment=UNPAID), (), SESSION),
        (session(payment=UNPAID), (GIVES,), CheckoutOutcome.ENTITLED),
        (session(payment=UNPAID, failed=True), (), CheckoutOutcome.PAYMENT_FAILED),
        (session(payment=UNPAID, failed=True), (WAITS,), CheckoutOutcome.PAYMENT_FAILED),
    ],
)
def test_a_purchase_by_what_is_known(
    known: ObjectState | None, sources: tuple[SourceState, ...], outcome: CheckoutOutcome | Missing
) -> None:
    assert settled("cs_1", known, answer(*sources)) == outcome


@pytest.mark.parametrize(
    ("sources", "outcome"),
    [
        ((), SUBSCRIPTION),
        ((GIVES,), CheckoutOutcome.ENTITLED),
        ((OVER,), CheckoutOutcome.NOT_ENTITLED),
        ((WAITS,), SUBSCRIPTION),
    ],
)
def test_a_subscription_is_settled_by_its_own_items(
    sources: tuple[SourceState, ...], outcome: CheckoutOutcome | Missing
) -> None:
    """A completed session carries none; another purchase of the customer says nothing of it."""
    known = session(subscription_id="sub_1")
    assert settled("cs_1", known, answer(*sources, stripe_id="si_1", subscription_id="sub_1")) == outcome
    assert settled("cs_1", known, answer(*sources, stripe_id="si_2", subscription_id="sub_2")) == SUBSCRIPTION
    assert settled("cs_1", session(), answer(*sources, stripe_id="cs_2")) == SESSION


def test_a_session_is_open_only_by_a_read_since_the_question() -> None:
    def of(state: ObjectState | None) -> CheckoutOutcome:
        return unsettled(state, asked_since=2_000)

    def opened(asked: int | None) -> ObjectState:
        return session(SessionStatus.OPEN, UNPAID, asked=asked)

    assert [of(opened(asked)) for asked in (2_000, 2_001)] == [CheckoutOutcome.STILL_OPEN] * 2
    others = [None, opened(None), opened(1_999), session(asked=2_001)]
    assert [of(one) for one in others] == [CheckoutOutcome.UNCONFIRMED] * 4
