"""Money that is asked for, or credited, beside what a period costs: it neither pays for a period nor takes a paid one away."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations

import pytest

from billing_service.domain.access import SourceState, accesses
from billing_service.domain.facts import CustomerFacts
from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import observe
from billing_service.domain.payments import DisputeStanding
from billing_service.domain.views import InvoiceView, ObjectKind
from tests.stripe_events import (
    MONTH,
    START,
    charge,
    dispute,
    event,
    invoice,
    invoice_payment,
    refund,
    session,
    subscription,
)
from tests.unit.domain.test_facts import CREATED, DAY, gathered
from tests.unit.domain.test_first_payments import CATALOG, PAGE, PRO, RETURNED, VOIDED

EXTRAS = ("manual", "automatic_pending_invoice_item_invoice")
PAID = event("invoice.paid", invoice("ann"))
AT = START + 9 * DAY
LATEST = event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=AT)


def state_at(facts: CustomerFacts, seconds: int) -> SourceState:
    (access,) = accesses(facts, lambda *_: PRO, CATALOG.plans.get)
    return access.at(datetime.fromtimestamp(seconds, UTC)).state


def second(status: str, reason: str, **more: object) -> dict[str, object]:
    return invoice("ann", status, id="in_2", created=AT, billing_reason=reason, amount_due=500) | more


@pytest.mark.parametrize("reason", EXTRAS)
@pytest.mark.parametrize(("ends", "told"), [("void", "voided"), ("uncollectible", "marked_uncollectible")])
def test_an_extra_that_was_given_up_takes_no_paid_period_away(reason: str, ends: str, told: str) -> None:
    """Somebody is asked for setting-up by hand, on an invoice of the subscription; the card is declined, and it is let go."""
    bodies = [
        LATEST,
        event("invoice.payment_failed", second("open", reason, attempted=True), created=AT + 1),
        event(f"invoice.{told}", second(ends, reason, attempted=True), created=AT + 2),
    ]
    for order in permutations([CREATED, PAID, *bodies]):
        assert state_at(gathered(*order), START + 29 * DAY) is SourceState.ACTIVE


@pytest.mark.parametrize("reason", EXTRAS)
def test_an_extra_that_asked_for_nothing_is_no_first_payment(reason: str) -> None:
    credited = event("invoice.paid", second("paid", reason, amount_due=0), created=AT)
    for order in permutations([CREATED, PAGE, credited, LATEST]):
        assert state_at(gathered(*order), AT) is SourceState.PENDING_PAYMENT
        assert state_at(gathered(*order, RETURNED, VOIDED), AT) is SourceState.PAYMENT_OVERDUE


@pytest.mark.parametrize("reason", EXTRAS)
def test_an_extra_hides_no_first_payment_that_is_awaited(reason: str) -> None:
    """Somebody made the subscription in the dashboard; its first debit is on its way."""
    first = event("invoice.finalization_failed", invoice("ann", "open"))
    asked = event("invoice.payment_failed", second("open", reason), created=AT)
    for order in permutations([CREATED, first, asked, LATEST]):
        assert state_at(gathered(*order), AT) is SourceState.PENDING_PAYMENT


@pytest.mark.parametrize("reason", EXTRAS)
def test_who_was_there_before_us_keeps_what_was_paid_when_an_extra_is_not(reason: str) -> None:
    asked = event("invoice.payment_failed", second("open", reason), created=AT)
    for order in permutations([LATEST, asked]):
        assert state_at(gathered(*order), AT) is SourceState.ACTIVE


def test_a_first_invoice_of_a_quote_is_awaited_like_any_other() -> None:
    """Stripe's reason of it says neither that it is the first nor that it is not; its period does."""
    first = event("invoice.payment_failed", invoice("ann", "open", billing_reason="quote_accept"))
    for order in permutations([CREATED, first]):
        assert state_at(gathered(*order), AT) is SourceState.PENDING_PAYMENT


@pytest.mark.parametrize(
    ("reason", "amount_due", "stands"),
    [("subscription_update", 0, True), ("manual", 0, True), ("manual", 500, False)],
)
def test_a_lost_dispute_is_not_made_up_for_by_a_credit(reason: str, amount_due: int, stands: bool) -> None:
    """The next month is open, as its debit is on its way; meanwhile somebody takes a seat less."""
    began = START + MONTH
    renewed = subscription("ann", latest_invoice="in_3", start=began) | {"start_date": START}
    later = second("paid", reason, id="in_3", created=began + DAY, amount_due=amount_due)
    bodies = [
        event("invoice_payment.paid", invoice_payment("ann")),
        event("charge.dispute.closed", dispute("ann", "lost"), created=START + 20 * DAY),
        event("customer.subscription.updated", renewed, created=began),
        event("invoice.paid", later, created=began + DAY),
    ]
    for order in permutations([CREATED, PAID, *bodies]):
        (facts,) = gathered(*order).subscriptions
        assert facts.dispute is (DisputeStanding.LOST if stands else None)


def from_balance(reason: str, **more: object) -> dict[str, object]:
    """An invoice of which everything was taken from the customer's balance."""
    return second("paid", reason, amount_due=0, starting_balance=-5000, ending_balance=-3100) | more


def test_what_a_balance_pays_for_is_paid_whatever_the_invoice_is_of() -> None:
    """The first debit came back, money was sent to the bank account instead, and a period was begun with it by hand."""
    anew = subscription("ann", latest_invoice="in_2", start=AT) | {"start_date": START}
    restarted = event("customer.subscription.updated", anew, created=AT)
    for reason in ("subscription_update", "subscription_cycle", "manual"):
        paid = event("invoice.paid", from_balance(reason), created=AT)
        for order in permutations([CREATED, PAGE, RETURNED, VOIDED, restarted, paid]):
            assert state_at(gathered(*order), AT + 20 * DAY) is SourceState.ACTIVE


@pytest.mark.parametrize("reason", ["subscription_update", "subscription_cycle", "manual"])
def test_a_credit_for_what_was_never_paid_pays_for_nothing(reason: str) -> None:
    """A year by a bank debit; before that comes back, from yearly to monthly. Stripe credits the year, which pays for months."""
    monthly = subscription("ann", latest_invoice="in_3", start=START + DAY) | {"start_date": START}
    began = START + DAY + MONTH
    renewed = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    credit = invoice(
        "ann", id="in_3", created=START + DAY, billing_reason="subscription_update", amount_due=0, starting_balance=0, ending_balance=-17000
    )  # fmt: skip
    bodies = [
        event("customer.subscription.updated", monthly, created=START + DAY),
        event("invoice.paid", credit, created=START + DAY),
        event("customer.subscription.updated", renewed, created=began),
        event("invoice.paid", from_balance(reason, created=began), created=began),
        event(
            "checkout.session.async_payment_failed", session("ann", payment_status="unpaid"), created=START + 5 * DAY
        ),
    ]
    for order in permutations(bodies):
        assert state_at(gathered(CREATED, PAGE, VOIDED, *order), began) is SourceState.PAYMENT_OVERDUE
    arrived = event("invoice.paid", invoice("ann"), created=START + 5 * DAY)
    for order in permutations(bodies[:-1]):
        assert state_at(gathered(CREATED, PAGE, arrived, *order), began) is SourceState.ACTIVE


@pytest.mark.parametrize(
    ("reason", "credited", "expected"),
    [
        ("manual", 1900, SourceState.ACTIVE),  # somebody gave it
        ("automatic_pending_invoice_item_invoice", 1900, SourceState.PAYMENT_OVERDUE),  # left over from changes
        ("subscription_cycle", 1900, SourceState.PAYMENT_OVERDUE),  # the same, with a renewal
        ("subscription_update", 1899, SourceState.ACTIVE),  # more was taken than that: it was there before
    ],
)
def test_a_credit_by_hand_is_given_and_what_was_in_the_balance_before_is_the_customers(
    reason: str, credited: int, expected: SourceState
) -> None:
    began = START + MONTH
    renewed = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    credit = {"amount_due": 0, "starting_balance": -1, "ending_balance": -1 - credited}
    bodies = [
        event("invoice.paid", second("paid", reason, id="in_3", **credit), created=AT),
        event("customer.subscription.updated", renewed, created=began),
        event("invoice.paid", from_balance("subscription_cycle", created=began), created=began),
    ]
    for order in permutations(bodies):
        assert state_at(gathered(CREATED, PAGE, RETURNED, VOIDED, *order), began) is expected


def test_what_is_given_back_of_a_subscription_takes_nothing() -> None:
    """By a refund or a credit note: whoever is to have it no more is cancelled."""
    bodies = [
        event("invoice_payment.paid", invoice_payment("ann")),
        event("charge.refunded", charge("ann", 2500), created=AT),
        event("refund.created", refund("ann", 2500), created=AT),
    ]
    for order in permutations([CREATED, PAID, *bodies]):
        assert state_at(gathered(*order), AT + DAY) is SourceState.ACTIVE


def test_a_payment_outside_stripe_and_one_in_parts_tie_what_is_disputed_of_them() -> None:
    parts = [
        invoice_payment("ann") | {"id": f"inpay_{number}", "payment": payment}
        for number, payment in enumerate(
            (
                {"type": "payment_record", "payment_record": "pr_1"},
                {"type": "payment_intent", "payment_intent": "pi_part"},
                {"type": "payment_intent", "payment_intent": "pi_ann"},
            )
        )
    ]
    bodies = [*(event("invoice_payment.paid", part) for part in parts), event("charge.dispute.created", dispute("ann"))]
    for order in permutations([CREATED, PAID, *bodies]):
        (facts,) = gathered(*order).subscriptions
        assert facts.dispute is DisputeStanding.OPEN


def test_what_is_past_due_is_settled_by_a_renewal_that_a_balance_pays_for() -> None:
    """The subscription itself says so with a later event. By a change that a balance pays for it is not: what is overdue is another invoice."""
    began = START + MONTH
    late = subscription("ann", "past_due", latest_invoice="in_2", start=began) | {"start_date": START}
    for reason, expected in (("subscription_cycle", SourceState.ACTIVE), ("subscription_update", SourceState.GRACE)):
        bodies = [
            event("customer.subscription.updated", late, created=began),
            event("invoice.paid", from_balance(reason, created=began), created=began),
        ]
        for order in permutations([CREATED, PAID, *bodies]):
            assert state_at(gathered(*order), began) is expected


@pytest.mark.parametrize("running", ["renewal", "credit"])
def test_a_lost_dispute_is_made_up_for_by_what_a_balance_pays_for_and_not_by_what_goes_into_it(running: str) -> None:
    """The balance was used up before money was paid: a credit of then is not in it any more."""
    began = START + 2 * MONTH
    there = subscription("ann", latest_invoice="in_5", start=began) | {"start_date": START}
    lost = invoice("ann", id="in_ann", created=START + 3 * DAY, billing_reason="subscription_update")
    credit = second("paid", "subscription_update", id="in_2", created=START, amount_due=0, ending_balance=-9000)
    month = {"created": began if running == "renewal" else START + MONTH}
    bodies = [
        event("invoice.paid", from_balance("subscription_cycle", id="in_3", **month), created=month["created"]),
        event("invoice.paid", invoice("ann", id="in_zero"), created=START),
        event("charge.dispute.closed", dispute("ann", "lost"), created=began),
        event("customer.subscription.updated", there, created=began),
    ]
    if running == "credit":
        back = {"amount_due": 0, "starting_balance": -3100, "ending_balance": -3200}
        credited = second("paid", "subscription_update", id="in_5", created=began + DAY, **back)
        bodies.append(event("invoice.paid", credited, created=began + DAY))
    known = [
        event("invoice.paid", lost),
        event("invoice.paid", credit),
        event("invoice_payment.paid", invoice_payment("ann")),
    ]
    for order in permutations(bodies):
        (facts,) = gathered(*known, *order).subscriptions
        assert facts.dispute is (None if running == "renewal" else DisputeStanding.LOST)


@pytest.mark.parametrize(
    ("told", "moved"),
    [
        ({"amount_due": 0, "starting_balance": -500, "ending_balance": -200}, 300),
        ({"amount_due": 0, "starting_balance": -500, "ending_balance": -600}, -100),
        # The rest is too little to be charged, and owed.
        (
            {"amount_due": 0, "starting_balance": -10, "ending_balance": 30},
            10,
        ),
        ({"amount_due": 0, "starting_balance": 100, "ending_balance": -50}, -50),
        ({"amount_due": 0, "starting_balance": -500, "ending_balance": None}, 0),  # a draft
        ({"amount_due": 700, "starting_balance": -500, "ending_balance": 0}, 0),
        ({"amount_due": 0}, 0),
    ],
)
def test_what_an_invoice_that_asks_for_nothing_took_of_a_balance_is_told_by_it(
    told: dict[str, int | None], moved: int
) -> None:
    view = observe(invoice("ann") | told, ObjectKind.INVOICE).view
    assert isinstance(view, InvoiceView)
    assert view.from_balance == moved


@pytest.mark.parametrize("wrong", ["-500", 1.5, True, 10**19])
def test_a_balance_that_is_no_amount_is_not_half_read(wrong: object) -> None:
    with pytest.raises(MalformedError, match="ending_balance"):
        observe(invoice("ann", amount_due=0, ending_balance=wrong), ObjectKind.INVOICE)


def written_off(reason: str, **more: object) -> list[bytes]:
    """A renewal that was declined and given up, and then something that asked for nothing."""
    began = START + MONTH
    owed = invoice("ann", "open", id="in_3", created=began, billing_reason="subscription_cycle", attempted=True)
    later = second("paid", reason, created=began + 2 * DAY, amount_due=0, **more)
    there = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    return [
        event("invoice.payment_failed", owed, created=began + 1),
        event("invoice.marked_uncollectible", owed | {"status": "uncollectible"}, created=began + DAY),
        event("invoice.paid", later, created=began + 2 * DAY),
        event("customer.subscription.updated", there, created=began + 2 * DAY),
    ]


@pytest.mark.parametrize("reason", ["subscription_update", *EXTRAS])
def test_what_asked_for_nothing_pays_for_no_period_that_was_given_up(reason: str) -> None:
    """Stripe says that the subscription is active, and that its latest invoice is paid: by the credit for what nobody paid."""
    for order in permutations([CREATED, PAID, *written_off(reason, starting_balance=0, ending_balance=-100)]):
        facts = gathered(*order)
        assert state_at(facts, START + MONTH + 3 * DAY) is SourceState.GRACE
        assert state_at(facts, START + MONTH + 9 * DAY) is SourceState.PAYMENT_OVERDUE


@pytest.mark.parametrize("how", ["another item", "another interval"])
def test_a_credit_does_so_whatever_begins_with_it(how: str) -> None:
    """An item that was added a day before has a period of its own; a change of the interval begins one, by the credit for what nobody paid."""
    at = START + MONTH + 2 * DAY
    *owed, _, _ = written_off("subscription_update")
    there = subscription("ann", latest_invoice="in_2", start=START + MONTH) | {"start_date": START}
    (item,) = there["items"]["data"]
    if how == "another item":
        there["items"]["data"].append(item | {"id": "si_2", "current_period_start": at - DAY})
    else:
        item["current_period_start"] = at
    credit = second("paid", "subscription_update", created=at, amount_due=0, ending_balance=-100)
    bodies = [event("invoice.paid", credit, created=at), event("customer.subscription.updated", there, created=at)]
    for order in permutations([CREATED, PAID, *owed, *bodies]):
        given = accesses(gathered(*order), lambda *_: PRO, CATALOG.plans.get)
        assert {one.state for one in given} == {SourceState.GRACE}


def test_a_period_that_is_begun_anew_for_nothing_is_free() -> None:
    """By a coupon for all of it, after the one before was given up; and what a balance pays for is paid."""
    began = START + MONTH + 2 * DAY
    *owed, _, _ = written_off("subscription_update")
    there = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    balance = {"starting_balance": -1900, "ending_balance": 0}
    for start, more in ((began, {}), (began, balance), (began - 2 * DAY, balance)):
        there["items"]["data"][0]["current_period_start"] = start
        free = second("paid", "subscription_update", created=began, amount_due=0, **more)
        bodies = [
            event("invoice.paid", free, created=began),
            event("customer.subscription.updated", there, created=began),
        ]
        for order in permutations([CREATED, PAID, *owed, *bodies]):
            assert state_at(gathered(*order), START + MONTH + 20 * DAY) is SourceState.ACTIVE


def test_what_was_given_up_of_an_earlier_period_says_nothing_of_one_that_nobody_told_of() -> None:
    """The renewal since was paid, and lost on its way to us; then somebody takes a seat less."""
    began = START + 2 * MONTH
    *owed, _, _ = written_off("subscription_update")
    there = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    credit = second("paid", "subscription_update", created=began + DAY, amount_due=0, ending_balance=-100)
    bodies = [
        event("invoice.paid", credit, created=began + DAY),
        event("customer.subscription.updated", there, created=began + DAY),
    ]
    for order in permutations([CREATED, PAID, *owed, *bodies]):
        assert state_at(gathered(*order), began + 20 * DAY) is SourceState.ACTIVE
