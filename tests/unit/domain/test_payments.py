"""What became of a payment's money, by every status that Stripe has for a refund and a dispute."""

from __future__ import annotations

import pytest

from billing_service.domain.merge import ObjectState, Payload
from billing_service.domain.payments import DisputeStanding, Payments, PaymentView, worst
from billing_service.domain.views import ChargeView, DisputeStatus, DisputeView, ObjectKind, RefundStatus, RefundView

INTENT = "pi_1"
STANDINGS = {
    DisputeStatus.WARNING_NEEDS_RESPONSE: None,  # an inquiry moves no money
    DisputeStatus.WARNING_UNDER_REVIEW: None,
    DisputeStatus.WARNING_CLOSED: None,
    DisputeStatus.NEEDS_RESPONSE: DisputeStanding.OPEN,
    DisputeStatus.UNDER_REVIEW: DisputeStanding.OPEN,
    DisputeStatus.APPEAL_NEEDS_RESPONSE: DisputeStanding.LOST,  # it is gone until the appeal is won
    DisputeStatus.APPEAL_UNDER_REVIEW: DisputeStanding.LOST,
    DisputeStatus.WON: None,
    DisputeStatus.LOST: DisputeStanding.LOST,
    DisputeStatus.PREVENTED: None,
}
RETURNED = {
    RefundStatus.PENDING: 700,
    RefundStatus.REQUIRES_ACTION: 700,
    RefundStatus.SUCCEEDED: 700,
    RefundStatus.FAILED: 0,
    RefundStatus.CANCELED: 0,
}


def known(object_id: str, kind: ObjectKind, view: PaymentView, told: int = 1) -> tuple[ObjectState, PaymentView]:
    return ObjectState(object_id, kind, None, Payload(told, f"evt_{object_id}", 1, view), None, {}), view


def payments(kind: ObjectKind, view: PaymentView) -> Payments:
    return Payments.of([known("x_1", kind, view)])


@pytest.mark.parametrize("status", DisputeStatus)
def test_a_dispute_stands_by_its_status(status: DisputeStatus) -> None:
    found = payments(ObjectKind.DISPUTE, DisputeView(status, 2500, INTENT, None))
    assert found.dispute(INTENT) is STANDINGS[status]


@pytest.mark.parametrize("status", RefundStatus)
def test_a_refund_counts_unless_it_came_back(status: RefundStatus) -> None:
    found = payments(ObjectKind.REFUND, RefundView(status, 700, INTENT, None))
    assert found.refunded(INTENT) == RETURNED[status]


def test_of_several_disputes_the_worst_counts() -> None:
    """A lost one says more than one that is open: a plan may suspend for the one and not for the other."""
    assert worst([None, DisputeStanding.LOST, DisputeStanding.OPEN]) is DisputeStanding.LOST
    assert worst([None]) is None
    views = [DisputeView(status, 1, INTENT, None) for status in (DisputeStatus.LOST, DisputeStatus.NEEDS_RESPONSE)]
    for ordered in (views, views[::-1]):
        found = Payments.of([known(f"du_{n}", ObjectKind.DISPUTE, view) for n, view in enumerate(ordered)])
        assert found.dispute(INTENT) is DisputeStanding.LOST


def test_a_dispute_that_names_a_charge_alone_is_of_its_payment() -> None:
    charged = known("ch_1", ObjectKind.CHARGE, ChargeView("succeeded", 2500, 0, INTENT))
    disputed = known("du_1", ObjectKind.DISPUTE, DisputeView(DisputeStatus.LOST, 2500, None, "ch_1"))
    assert Payments.of([charged, disputed]).dispute(INTENT) is DisputeStanding.LOST


@pytest.mark.parametrize(("failed_at", "refunded"), [(4, 700), (5, 0), (6, 0)])
def test_a_refund_that_came_back_is_taken_off_a_charge_that_said_it_before(failed_at: int, refunded: int) -> None:
    """Of one second they are of one moment: the charge has it still."""
    charged = known("ch_1", ObjectKind.CHARGE, ChargeView("succeeded", 2500, 700, INTENT), told=5)
    failed = known("re_1", ObjectKind.REFUND, RefundView(RefundStatus.FAILED, 700, INTENT, None), told=failed_at)
    assert Payments.of([charged, failed]).refunded(INTENT) == refunded
