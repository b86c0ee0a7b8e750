"""What is gathered from objects: who has paid before is not at a first payment any more."""

from __future__ import annotations

import json
from itertools import permutations

from billing_service.domain.facts import CustomerFacts, gather
from billing_service.domain.merge import ObjectState, join, of_event, of_read
from billing_service.domain.observation import Fact, observe, read_event
from billing_service.domain.views import InvoiceStatus, ObjectKind
from tests.stripe_events import START, event, export_pass, invoice, session, subscription


def gathered(*bodies: bytes) -> CustomerFacts:
    """Merge events in their order and gather the facts."""
    states: dict[str, ObjectState] = {}
    for receipt, body in enumerate(bodies):
        understood = read_event(json.loads(body))
        assert understood.observation is not None
        state = of_event(understood, understood.observation, receipt)
        there = states.get(state.object_id)
        states[state.object_id] = state if there is None else join(there, state)
    return gather(states.values())


CREATED = event("customer.subscription.created", subscription("ann"))
UPGRADED = event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=START + 50)


def test_a_new_invoice_that_is_not_known_yet_is_no_first_payment_of_who_has_paid() -> None:
    (facts,) = gathered(CREATED, event("invoice.paid", invoice("ann")), UPGRADED).subscriptions
    assert not facts.first_payment


def test_an_update_before_anything_was_paid_is_still_the_first_payment() -> None:
    billed = invoice("ann", "open", id="in_2", billing_reason="subscription_update")
    unpaid = event("checkout.session.completed", session("ann", payment_status="unpaid"))
    failed = event("invoice.payment_failed", billed, created=START + 51)
    (facts,) = gathered(unpaid, CREATED, UPGRADED, failed).subscriptions
    assert facts.first_payment


def test_a_second_invoice_that_fails_does_not_start_the_grace_anew_while_the_first_is_open() -> None:
    """Stripe may be told to leave a subscription past due: then an invoice fails each month, and none is a new grace."""
    month = 30 * 86_400
    late = subscription("ann", "past_due", latest_invoice="in_2")
    first = invoice("ann", "open", id="in_1", billing_reason="subscription_cycle")
    second = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle")
    bodies = [
        event("invoice.payment_failed", first, created=START + 100),
        event("invoice.payment_failed", first, created=START + 900),
        event("invoice.payment_failed", second, created=START + month),
        event("customer.subscription.updated", late, created=START + month),
    ]
    for order in permutations(bodies):
        (facts,) = gathered(*order).subscriptions
        assert facts.failed_time == START + 100
    paid = event("invoice.paid", first | {"status": "paid"}, created=START + month + 5)
    (facts,) = gathered(*bodies, paid).subscriptions
    assert facts.failed_time == START + month


def test_a_change_whose_invoice_failed_and_went_void_is_not_owed_and_a_renewal_is() -> None:
    """What was to wait for its payment and did not get it leaves the paid period as it was, in whichever order it is heard."""
    for reason, failed_time in (("subscription_update", None), ("subscription_cycle", START + 51)):
        billed = invoice("ann", "open", id="in_2", billing_reason=reason)
        failed = event("invoice.payment_failed", billed, created=START + 51)
        voided = event("invoice.voided", billed | {"status": "void"}, created=START + 90)
        for order in permutations([CREATED, event("invoice.paid", invoice("ann")), UPGRADED, failed, voided]):
            (facts,) = gathered(*order).subscriptions
            assert facts.failed_time == failed_time
            assert facts.invoice_status is (InvoiceStatus.PAID if failed_time is None else InvoiceStatus.VOID)


def test_an_answer_without_a_date_is_taken_at_the_time_of_the_request() -> None:
    seen = observe(export_pass("ann"), ObjectKind.CHECKOUT_SESSION)
    read = of_read(seen, fence=1, request_time=START + 10, server_time=0, known_created=None)
    assert read.facts == {Fact.PAID: START + 10}
