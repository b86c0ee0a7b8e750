"""A subscription with a yearly and a monthly item: each is renewed by invoices of its own, and one that fails is not the other's."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from billing_service.domain.access import SourceState, accesses
from billing_service.domain.facts import CustomerFacts, gather
from billing_service.domain.merge import of_read
from billing_service.domain.observation import observe
from billing_service.domain.views import ObjectKind
from tests.stripe_events import MONTH, START, event, invoice, subscription
from tests.unit.domain.test_facts import DAY, gathered
from tests.unit.domain.test_facts import states as told
from tests.unit.domain.test_first_payments import CATALOG, PRO

YEAR = 365 * DAY
RENEWED = START + MONTH  # the monthly item, for the first time
FIRST = event("invoice.paid", invoice("ann"))


def both(status: str, *, monthly: int = START, yearly: int = START, **more: Any) -> dict[str, Any]:
    found = subscription("ann", status, **more)
    (item,) = found["items"]["data"]
    item |= {"current_period_start": monthly, "current_period_end": monthly + MONTH}
    times = {"current_period_start": yearly, "current_period_end": yearly + YEAR}
    found["items"]["data"].append(item | times | {"id": "si_year"})
    return found


BEGUN = event("customer.subscription.created", both("active"))
PAST_DUE = event(
    "customer.subscription.updated", both("past_due", monthly=RENEWED, latest_invoice="in_2"), created=RENEWED + 2
)


def renewal(status: str = "open", **more: Any) -> dict[str, Any]:
    return (
        invoice("ann", status, id="in_2", created=RENEWED, billing_reason="subscription_cycle", attempted=True) | more
    )


FAILED = event("invoice.payment_failed", renewal(), created=RENEWED + 1)


def states(facts: CustomerFacts, seconds: int) -> dict[str | None, str]:
    now = datetime.fromtimestamp(seconds, UTC)
    found = [access.at(now) for access in accesses(facts, lambda *_: PRO, CATALOG.plans.get)]
    return {source.stripe_id: source.state.value for source in found}


def test_a_month_that_failed_takes_no_year_away() -> None:
    for order in permutations([BEGUN, FIRST, FAILED, PAST_DUE]):
        facts = gathered(*order)
        assert states(facts, RENEWED + DAY) == {"si_ann": "grace", "si_year": "active"}
        assert states(facts, RENEWED + 40 * DAY) == {"si_ann": "payment_overdue", "si_year": "active"}
        assert states(facts, START + YEAR + 2 * DAY)["si_year"] == "ended"


@pytest.mark.parametrize("ends", ["void", "uncollectible"])
def test_nor_does_one_that_was_given_up_while_stripe_says_active(ends: str) -> None:
    given_up = event("invoice.voided", renewal(ends), created=RENEWED + 60)
    active = event(
        "customer.subscription.updated", both("active", monthly=RENEWED, latest_invoice="in_2"), created=RENEWED + 61
    )
    for order in permutations([BEGUN, FIRST, FAILED, given_up, active]):
        assert states(gathered(*order), RENEWED + 40 * DAY) == {"si_ann": "payment_overdue", "si_year": "active"}


def test_a_month_that_is_a_draft_while_stripe_says_past_due_takes_no_year_away() -> None:
    """Its failure was told of by the subscription alone, and read before that."""
    draft = observe(renewal("draft", attempted=False), ObjectKind.INVOICE)
    read = of_read(draft, fence=9, request_time=RENEWED, server_time=RENEWED, known_created=None)
    for order in permutations([BEGUN, FIRST, PAST_DUE]):
        facts = gather([*told(*order), read])
        assert states(facts, RENEWED + DAY) == {"si_ann": "grace", "si_year": "active"}


def test_another_renewal_that_nobody_told_of_takes_it_no_sooner() -> None:
    """The month after the one that failed; until its invoice is read, all that is known is of the month."""
    at = RENEWED + MONTH
    later = event("customer.subscription.updated", both("past_due", monthly=at, latest_invoice="in_9"), created=at + 2)
    for order in permutations([BEGUN, FIRST, FAILED, later]):
        assert states(gathered(*order), at + DAY) == {"si_ann": "payment_overdue", "si_year": "active"}


def test_what_went_void_before_says_nothing_as_it_is_not_loaded() -> None:
    void = event("invoice.voided", renewal("void", id="in_0", created=START + 60), created=START + 90)
    facts = gathered(BEGUN, FIRST, FAILED, PAST_DUE)
    assert facts == gathered(BEGUN, FIRST, void, FAILED, PAST_DUE)
    assert facts.subscriptions[0].paid_apart == ("si_year",)
    assert gathered(BEGUN, FIRST).subscriptions[0].paid_apart == ()


@pytest.mark.parametrize(
    ("status", "state"), [("unpaid", "payment_overdue"), ("canceled", "ended"), ("paused", "paused")]
)
def test_it_is_the_subscription_that_ends(status: str, state: str) -> None:
    over = event(
        "customer.subscription.updated", both(status, monthly=RENEWED, latest_invoice="in_2"), created=RENEWED + 2
    )
    for order in permutations([BEGUN, FIRST, FAILED, over]):
        assert set(states(gathered(*order), RENEWED + DAY).values()) == {state}


def test_a_year_that_failed_takes_no_paid_month_away() -> None:
    at = START + YEAR
    month = invoice("ann", id="in_2", created=at + DAY, billing_reason="subscription_cycle")
    failed = event("invoice.payment_failed", renewal() | {"id": "in_3", "created": at}, created=at + 1)
    bodies = [
        BEGUN, FIRST, failed, event("invoice.paid", month, created=at + DAY + 1),
        event("customer.subscription.updated", both("past_due", monthly=at + DAY, yearly=at, latest_invoice="in_3"), created=at + DAY + 2),
    ]  # fmt: skip
    for order in permutations(bodies):
        assert states(gathered(*order), at + 20 * DAY) == {"si_ann": "active", "si_year": "payment_overdue"}


@pytest.mark.parametrize(
    "bodies",
    [
        # What is overdue is of whatever ran when it was made.
        [FIRST, event("invoice.payment_failed", renewal(billing_reason="subscription_update"), created=RENEWED + 1)],
        # Nothing is known to be paid.
        [FAILED],
        # The year's own invoice was written off, and only a month was paid since.
        [
            FIRST, FAILED, event("invoice.marked_uncollectible", renewal("uncollectible", id="in_y", created=START + 5), created=START + 60),
        ],
        # Nobody told what is overdue.
        [FIRST],
    ],
)  # fmt: skip
def test_what_may_be_of_the_year_too_takes_it_after_the_grace(bodies: list[bytes]) -> None:
    for order in permutations([BEGUN, *bodies, PAST_DUE]):
        assert set(states(gathered(*order), RENEWED + 40 * DAY).values()) == {"payment_overdue"}


def test_items_of_one_interval_are_overdue_together() -> None:
    late = event(
        "customer.subscription.updated",
        both("past_due", monthly=RENEWED, yearly=RENEWED, latest_invoice="in_2"),
        created=RENEWED + 2,
    )
    for order in permutations([BEGUN, FIRST, FAILED, late]):
        assert set(states(gathered(*order), RENEWED + DAY).values()) == {SourceState.GRACE.value}
