"""Whether anything was ever paid for a subscription: nobody gets a period for nothing, and nobody loses one that was paid."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from billing_service.domain.access import SourceState, accesses
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.views import InvoiceStatus
from tests.stripe_events import START, event, invoice, session, subscription
from tests.unit.domain.test_facts import CREATED, DAY, gathered

CATALOG = parse_catalog((Path(__file__).parents[3] / "catalog.toml").read_text())
PRO = CATALOG.plans["pro"]
PAGE = event("checkout.session.completed", session("ann", payment_status="unpaid"))
RETURNED = event(
    "checkout.session.async_payment_failed", session("ann", payment_status="unpaid"), created=START + 5 * DAY
)
VOIDED = event("invoice.voided", invoice("ann", "void"), created=START + 5 * DAY)
CHANGED_AT = START + DAY
CHANGED = event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=CHANGED_AT)


def state_of(facts: CustomerFacts) -> SourceState:
    (access,) = accesses(facts, lambda *_: PRO, CATALOG.plans.get)
    return access.state


def change(status: str, **more: object) -> dict[str, object]:
    return invoice("ann", status, id="in_2", created=CHANGED_AT, billing_reason="subscription_update") | more


def test_a_change_that_asked_for_nothing_is_no_first_payment() -> None:
    """While the bank debit is on its way somebody takes one seat less: Stripe credits it, and calls the invoice paid. Then the debit comes back."""
    credited = event("invoice.paid", change("paid", amount_due=0), created=CHANGED_AT)
    for order in permutations([CREATED, PAGE, credited, CHANGED]):
        assert state_of(gathered(*order)) is SourceState.PENDING_PAYMENT
        assert state_of(gathered(*order, RETURNED, VOIDED)) is SourceState.PAYMENT_OVERDUE
    arrived = event("invoice.paid", invoice("ann"), created=START + 5 * DAY)
    assert state_of(gathered(CREATED, PAGE, credited, CHANGED, arrived)) is SourceState.ACTIVE


@pytest.mark.parametrize("asked", [{"amount_due": 900}, {}])
def test_a_change_that_was_paid_is_a_payment_although_the_first_one_came_back(asked: dict[str, int]) -> None:
    """Also where it does not say how much it asked for, as what a release before this one kept."""
    paid = event("invoice.paid", change("paid", **asked), created=CHANGED_AT)
    assert state_of(gathered(CREATED, PAGE, RETURNED, VOIDED, paid, CHANGED)) is SourceState.ACTIVE


def test_a_renewal_or_change_that_is_not_paid_yet_is_none_that_asked_for_nothing() -> None:
    """It is the latest, and decides: a renewal that a credit covers is paid, and a draft that asks for nothing may yet."""
    again = event("customer.subscription.updated", subscription("ann", latest_invoice="in_3"), created=START + 9 * DAY)
    for status, reason, expected in (
        ("paid", "subscription_cycle", SourceState.ACTIVE),
        ("open", "subscription_update", SourceState.PENDING_PAYMENT),
    ):
        body = invoice("ann", status, id="in_3", created=START + 9 * DAY, billing_reason=reason, amount_due=0)
        told = event("invoice.paid" if status == "paid" else "invoice.finalization_failed", body)
        facts = gathered(CREATED, PAGE, RETURNED, VOIDED, again, told)
        assert (facts.subscriptions[0].invoice_status, state_of(facts)) == (InvoiceStatus(status), expected)


def test_a_first_invoice_is_owed_although_nobody_told_of_a_page() -> None:
    """Somebody made the subscription in the dashboard; its first debit is on its way."""
    first = event("invoice.finalization_failed", invoice("ann", "open"))
    for told in (
        event("invoice.paid", change("paid", amount_due=0), created=CHANGED_AT),
        event("invoice.payment_failed", change("open"), created=CHANGED_AT),
    ):
        for order in permutations([CREATED, first, told, CHANGED]):
            assert state_of(gathered(*order)) is SourceState.PENDING_PAYMENT


def test_an_invoice_that_says_no_reason_may_be_the_first() -> None:
    told = event("invoice.payment_failed", change("open", billing_reason=None), created=CHANGED_AT)
    assert state_of(gathered(CREATED, CHANGED, told)) is SourceState.PENDING_PAYMENT


def test_a_change_that_asked_for_nothing_counts_where_nothing_is_known_to_be_owed() -> None:
    """Of who was there before us only the latest invoice may be known, and who has paid may well take a seat less."""
    credited = event("invoice.paid", change("paid", amount_due=0), created=CHANGED_AT)
    for known in ([CHANGED], [CHANGED, event("invoice.paid", invoice("ann"))]):
        (facts,) = gathered(*known, credited).subscriptions
        assert (facts.first_payment_settled, facts.invoice_status) == (True, InvoiceStatus.PAID)


@pytest.mark.parametrize("known", ["page", "invoice"])
def test_a_free_first_period_is_settled_and_so_is_a_change_in_it(known: str) -> None:
    """A trial, or a coupon for all of it: nothing was asked for, and nothing is owed."""
    free = {
        "page": event("checkout.session.completed", session("ann", payment_status="no_payment_required")),
        "invoice": event("invoice.paid", invoice("ann", amount_due=0)),
    }[known]
    credited = event("invoice.paid", change("paid", amount_due=0), created=CHANGED_AT)
    assert state_of(gathered(CREATED, free, credited, CHANGED)) is SourceState.ACTIVE


@pytest.mark.parametrize(
    ("status", "ends", "expected"),
    [
        ("active", "open", SourceState.ACTIVE),
        ("active", "void", SourceState.ACTIVE),
        ("past_due", "open", SourceState.GRACE),
    ],
)
def test_who_was_there_before_us_keeps_a_paid_year_when_a_change_is_not_paid(
    status: str, ends: str, expected: SourceState
) -> None:
    """Nobody told us of the first invoice, which was paid; only of the latest one, of a change in the first period."""
    there = subscription("ann", status, latest_invoice="in_2")
    there["items"]["data"][0]["current_period_end"] = START + 365 * DAY
    bodies = [
        event("customer.subscription.updated", there, created=CHANGED_AT),
        event("invoice.payment_failed", change("open"), created=CHANGED_AT),
    ]
    if ends == "void":
        bodies.append(event("invoice.voided", change("void"), created=CHANGED_AT + DAY))
    for order in permutations(bodies):
        facts = gathered(*order)
        assert not facts.subscriptions[0].first_payment
        assert state_of(facts) is expected


@pytest.mark.parametrize("first", [PAGE, event("invoice.finalization_failed", invoice("ann", "open"))])
def test_an_unpaid_change_hides_no_first_payment_that_is_known_to_be_awaited(first: bytes) -> None:
    billed = event("invoice.payment_failed", change("open"), created=CHANGED_AT)
    dropped = event("invoice.voided", change("void"), created=CHANGED_AT + DAY)
    for order in permutations([CREATED, first, CHANGED, billed, dropped]):
        assert state_of(gathered(*order)) is SourceState.PENDING_PAYMENT
