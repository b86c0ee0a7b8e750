"""Whose an object is that names no Stripe customer: whoever has what it hangs on, however long the chain."""

from __future__ import annotations

from itertools import permutations

from billing_service.domain.merge import ObjectState, Payload
from billing_service.domain.ownership import owners_of
from billing_service.domain.views import (
    InvoicePaymentView,
    InvoiceStatus,
    InvoiceView,
    ObjectKind,
    RefundStatus,
    RefundView,
    View,
)


def state(object_id: str, kind: ObjectKind, view: View, stripe_customer_id: str | None = None) -> ObjectState:
    return ObjectState(object_id, kind, stripe_customer_id, Payload(1, f"evt_{object_id}", 1, view), None, {})


INVOICE = state("in_1", ObjectKind.INVOICE, InvoiceView(InvoiceStatus.PAID, 1, "sub_1", None, None), "cus_1")
PAYMENT = state("inpay_1", ObjectKind.INVOICE_PAYMENT, InvoicePaymentView("paid", "in_1", "pi_1"))
REFUND = state("a_refund", ObjectKind.REFUND, RefundView(RefundStatus.SUCCEEDED, 5, "pi_1", None))
STRAY = state("re_2", ObjectKind.REFUND, RefundView(RefundStatus.SUCCEEDED, 5, "pi_2", None))


def test_a_chain_is_followed_to_its_end_in_whichever_order_its_objects_come() -> None:
    for order in permutations([INVOICE, PAYMENT, REFUND, STRAY]):
        assert owners_of(order, {"cus_1": "ann"}) == {"in_1": "ann", "inpay_1": "ann", "a_refund": "ann"}


def test_what_hangs_on_nothing_that_is_bound_is_nobodys() -> None:
    assert owners_of([INVOICE, PAYMENT, REFUND], {}) == {}
    assert owners_of([PAYMENT, REFUND], {"cus_1": "ann"}) == {}
