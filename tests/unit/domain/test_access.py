"""One row of the table at a time: status x latest invoice x first payment or renewal -> access, until when, and after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_service.domain.access import Access, Invoice, SourceState, Verdict, accesses, verdict
from billing_service.domain.catalog import Plan, Policy
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.facts import CustomerFacts, PurchaseFacts, SubscriptionFacts
from billing_service.domain.frozen import replace
from billing_service.domain.payments import DisputeStanding
from billing_service.domain.views import InvoiceStatus, ItemView, SubscriptionStatus

CATALOG = parse_catalog((Path(__file__).parents[3] / "catalog.toml").read_text())
START, MONTH = 1_790_000_000, 30 * 86_400
PRO = CATALOG.plans["pro"]
BASE = SubscriptionFacts(
    subscription_id="sub_1",
    status=SubscriptionStatus.ACTIVE,
    start=START,
    items=(ItemView("si_1", "price_1", "pro_monthly", 1, START, START + MONTH),),
    cancel_at=None,
    cancel_at_period_end=False,
    ended_at=None,
    trial_end=None,
    invoice_status=InvoiceStatus.PAID,
    invoice_known=True,
    first_payment=False,
    first_payment_settled=False,
    failed_time=None,
    due_time=None,
)
OWED = replace(BASE, status=SubscriptionStatus.PAST_DUE, invoice_status=InvoiceStatus.OPEN)


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def access(facts: SubscriptionFacts, plan: Plan = PRO) -> Access:
    (one,) = accesses(CustomerFacts(subscriptions=(facts,)), lambda *_: plan, CATALOG.plans.get)
    return one


ALL = [(invoice, first) for invoice in Invoice for first in (True, False)]
S, V = SubscriptionStatus, Verdict
TABLE = {
    S.TRIALING: V.TRIAL,
    S.PAST_DUE: V.GRACE,
    S.INCOMPLETE: V.PENDING,
    S.INCOMPLETE_EXPIRED: V.ENDED,
    S.UNPAID: V.OVERDUE,
    S.CANCELED: V.ENDED,
    S.PAUSED: V.PAUSED,
}


@pytest.mark.parametrize(("status", "expected"), TABLE.items())
@pytest.mark.parametrize(("invoice", "first"), ALL)
def test_every_status_but_active_decides_by_itself(
    status: SubscriptionStatus, expected: Verdict, invoice: Invoice, first: bool
) -> None:
    """With two exceptions: past due on a first payment, and past due although it is paid by now."""
    if status is S.PAST_DUE and first:
        expected = V.OVERDUE
    if status is S.PAST_DUE and invoice is Invoice.SETTLED:
        expected = V.PERIOD
    assert verdict(status, invoice, first=first) is expected


@pytest.mark.parametrize(
    ("invoice", "first", "expected"),
    [
        (Invoice.SETTLED, True, V.PERIOD),
        (Invoice.SETTLED, False, V.PERIOD),
        (Invoice.UNKNOWN, True, V.POLICY),
        (Invoice.UNKNOWN, False, V.PERIOD),
        (Invoice.OPEN, True, V.POLICY),
        (Invoice.OPEN, False, V.PERIOD),
        (Invoice.FAILED, True, V.OVERDUE),
        (Invoice.FAILED, False, V.GRACE),
        (Invoice.WAIVED, True, V.OVERDUE),
        (Invoice.WAIVED, False, V.PERIOD),
    ],
)
def test_active_depends_on_its_latest_invoice(invoice: Invoice, first: bool, expected: Verdict) -> None:
    assert verdict(S.ACTIVE, invoice, first=first) is expected


def test_a_paid_period_lasts_until_its_end_and_the_leeway_for_a_late_renewal() -> None:
    one = access(BASE)
    assert (one.state, one.end) == (SourceState.ACTIVE, at(START + MONTH) + timedelta(days=1))
    assert one.at(at(START + MONTH)).gives
    assert one.at(at(START + MONTH) + timedelta(days=1)).state is SourceState.ENDED


@pytest.mark.parametrize(
    ("cancel_at", "at_period_end", "end"),
    [
        (None, True, START + MONTH),
        (START + MONTH, False, START + MONTH),  # flexible billing says it by cancel_at alone
        (START + 86_400, False, START + 86_400),
        (START + 86_400, True, START + 86_400),
    ],
)
def test_a_cancelled_period_has_no_leeway(cancel_at: int | None, at_period_end: bool, end: int) -> None:
    one = access(replace(BASE, cancel_at=cancel_at, cancel_at_period_end=at_period_end))
    assert (one.state, one.end) == (SourceState.ENDING, at(end))


def test_a_cancellation_after_the_next_renewal_leaves_the_renewal_expected() -> None:
    one = access(replace(BASE, cancel_at=START + 2 * MONTH))
    assert (one.state, one.end) == (SourceState.ACTIVE, at(START + MONTH) + timedelta(days=1))


def test_a_trial_ends_by_itself() -> None:
    trial = replace(BASE, status=S.TRIALING, trial_end=START + 86_400)
    assert access(trial).end == at(START + 2 * 86_400)
    cancelling = access(replace(trial, cancel_at_period_end=True, cancel_at=START + 86_400))
    assert (cancelling.state, cancelling.end) == (SourceState.TRIALING, at(START + 86_400))


def test_grace_is_counted_from_the_first_failure_and_ends_overdue() -> None:
    one = access(replace(OWED, failed_time=START + 100, due_time=START))
    assert (one.state, one.end) == (SourceState.GRACE, at(START + 100) + timedelta(days=7))
    assert one.at(at(START + 100) + timedelta(days=7)).state is SourceState.PAYMENT_OVERDUE


def test_grace_without_a_known_failure_is_counted_from_when_the_invoice_was_due() -> None:
    one = access(replace(OWED, due_time=START + 50))
    assert one.end == at(START + 50) + timedelta(days=7)


def test_what_was_overdue_and_is_paid_gives_its_period_before_the_subscription_says_so() -> None:
    paid = replace(BASE, status=S.PAST_DUE)
    assert (access(paid).state, access(paid).end) == (SourceState.ACTIVE, at(START + MONTH) + timedelta(days=1))
    earlier_one_is_open = replace(paid, failed_time=START + 100, due_time=START)
    assert access(earlier_one_is_open).state is SourceState.ACTIVE  # Stripe goes by the latest, too


@pytest.mark.parametrize("status", [InvoiceStatus.VOID, InvoiceStatus.UNCOLLECTIBLE])
def test_an_invoice_that_was_given_up_before_any_payment_failed_takes_nothing_away(status: InvoiceStatus) -> None:
    """Paused collection does that to each invoice."""
    assert access(replace(BASE, invoice_status=status)).state is SourceState.ACTIVE
    assert access(replace(BASE, invoice_status=status, failed_time=START)).state is SourceState.GRACE
    of_an_earlier_one = replace(BASE, invoice_status=status, failed_time=START, invoice_failed=False)
    assert access(of_an_earlier_one).state is SourceState.ACTIVE


def test_access_before_the_first_payment_has_settled_is_the_plans_policy() -> None:
    unsettled = replace(BASE, first_payment=True, invoice_status=InvoiceStatus.OPEN)
    assert access(unsettled).state is SourceState.PENDING_PAYMENT
    trusting = replace(PRO, policy=replace(PRO.policy, access_before_settled=True))
    assert access(unsettled, trusting).state is SourceState.ACTIVE


PAUSED = replace(BASE, status=S.PAUSED)
COLLECTION = replace(BASE, collection_paused=True)
OVERDUE = replace(OWED, failed_time=START + 100)
DISPUTED, LOST = (replace(BASE, dispute=standing) for standing in DisputeStanding)
UNSETTLED = replace(BASE, first_payment=True, invoice_status=InvoiceStatus.OPEN)
A, D = SourceState, timedelta(days=1)


@pytest.mark.parametrize(
    ("facts", "policy", "state", "end"),
    [
        (OVERDUE, Policy(), A.GRACE, at(START + 100) + 7 * D),
        (OVERDUE, Policy(past_due_grace=3 * D), A.GRACE, at(START + 100) + 3 * D),
        (BASE, Policy(), A.ACTIVE, at(START + MONTH) + D),
        (BASE, Policy(period_end_leeway=2 * D), A.ACTIVE, at(START + MONTH) + 2 * D),
        (BASE, Policy(period_end_leeway=0 * D), A.ACTIVE, at(START + MONTH)),
        (PAUSED, Policy(), A.PAUSED, None),
        (PAUSED, Policy(access_while_paused=True), A.ACTIVE, None),
        (replace(PAUSED, paused_unpaid=True), Policy(access_while_paused=True), A.PAUSED, None),
        (replace(PAUSED, cancel_at=START + MONTH), Policy(access_while_paused=True), A.ENDING, at(START + MONTH)),
        (COLLECTION, Policy(), A.ACTIVE, at(START + MONTH) + D),
        (COLLECTION, Policy(access_while_collection_paused=False), A.PAUSED, None),
        (DISPUTED, Policy(), A.DISPUTED, None),
        (DISPUTED, Policy(open_dispute_suspends=False), A.ACTIVE, at(START + MONTH) + D),
        (LOST, Policy(), A.DISPUTED, None),
        (LOST, Policy(open_dispute_suspends=False), A.DISPUTED, None),
        (LOST, Policy(lost_dispute_revokes=False), A.ACTIVE, at(START + MONTH) + D),
        (UNSETTLED, Policy(), A.PENDING_PAYMENT, None),
        (UNSETTLED, Policy(access_before_settled=True), A.ACTIVE, at(START + MONTH) + D),
    ],
)
def test_each_policy_of_a_plan_decides_its_case_and_has_a_safe_default(
    facts: SubscriptionFacts, policy: Policy, state: SourceState, end: datetime | None
) -> None:
    one = access(facts, replace(PRO, policy=policy))
    assert (one.state, one.end) == (state, end)
    assert (one.after is state) is (end is None and state is not A.ACTIVE)


@pytest.mark.parametrize(
    ("invoice", "state"),
    [
        (InvoiceStatus.OPEN, A.PENDING_PAYMENT),
        (InvoiceStatus.VOID, A.PAYMENT_OVERDUE),
        (InvoiceStatus.UNCOLLECTIBLE, A.PAYMENT_OVERDUE),
    ],
)
def test_who_never_paid_has_nothing_while_paused(invoice: InvoiceStatus, state: SourceState) -> None:
    """A bank debit is on its way, or came back, when somebody pauses: what a plan keeps then is what there was."""
    kind = replace(PRO, policy=Policy(access_while_paused=True))
    never = replace(PAUSED, first_payment=True, invoice_status=invoice)
    assert access(never, kind).state is state
    assert access(replace(never, first_payment_settled=True), kind).state is A.ACTIVE
    assert access(replace(never, first_payment=False, failed_time=START), kind).state is A.ACTIVE


@pytest.mark.parametrize(
    ("status", "state"), [(S.CANCELED, A.ENDED), (S.UNPAID, A.PAYMENT_OVERDUE), (S.INCOMPLETE, A.PENDING_PAYMENT)]
)
def test_paused_collection_is_no_reason_why_something_gives_nothing_anyway(
    status: SubscriptionStatus, state: SourceState
) -> None:
    """Who looks into it is to see that it is over, not that it waits."""
    strict = replace(PRO, policy=Policy(access_while_collection_paused=False))
    assert access(replace(COLLECTION, status=status), strict).state is state
    trial = replace(BASE, status=S.TRIALING, trial_end=START + MONTH)
    for giving in (BASE, trial, OVERDUE, UNSETTLED):
        assert access(replace(giving, collection_paused=True), strict).state is A.PAUSED


@pytest.mark.parametrize("status", [S.CANCELED, S.UNPAID, S.PAUSED, S.INCOMPLETE])
@pytest.mark.parametrize("standing", DisputeStanding)
def test_a_dispute_is_no_reason_why_something_gives_nothing_anyway(
    status: SubscriptionStatus, standing: DisputeStanding
) -> None:
    assert access(replace(BASE, status=status, dispute=standing)) == access(replace(BASE, status=status))


def test_what_is_over_says_when_it_ended() -> None:
    one = access(replace(BASE, status=S.CANCELED, ended_at=START + 86_400))
    assert (one.state, one.end) == (SourceState.ENDED, at(START + 86_400))


def test_a_policy_about_paused_collection_is_for_what_is_paused_alone() -> None:
    strict = replace(PRO, policy=Policy(access_while_collection_paused=False))
    assert access(BASE, strict).state is SourceState.ACTIVE


def test_a_purchase_begins_when_it_was_paid_also_where_access_is_given_before() -> None:
    lenient = replace(CATALOG.plans["export_pass"], policy=Policy(access_before_settled=True))
    bought = PurchaseFacts("cs_1", "export_pass", 1, START, None)
    waiting, paid = (
        accesses(CustomerFacts(purchases=(one,)), lambda *_: None, lambda _: lenient)[0]
        for one in (bought, replace(bought, paid_time=START + 86_400))
    )
    assert (waiting.start, paid.start) == (at(START), at(START + 86_400))
    assert waiting.at(at(START)).gives


@pytest.mark.parametrize("status", [status for status in S if status is not S.PAUSED])
@pytest.mark.parametrize("invoice", InvoiceStatus)
def test_access_while_paused_is_for_what_is_paused_alone(status: SubscriptionStatus, invoice: InvoiceStatus) -> None:
    lenient = replace(PRO, policy=Policy(access_while_paused=True))
    for first in (True, False):
        one = replace(BASE, status=status, invoice_status=invoice, first_payment=first)
        assert access(one, lenient).at(at(START)) == access(one, replace(PRO, policy=Policy())).at(at(START))


@pytest.mark.parametrize(
    ("refunded", "fully", "policy", "state"),
    [
        (1, False, Policy(), A.ENDING),
        (1, False, Policy(partial_refund_revokes=True), A.REFUNDED),
        (9, True, Policy(), A.REFUNDED),
    ],
)
def test_a_part_of_a_purchase_given_back_is_the_plans_policy_and_all_of_it_is_not(
    refunded: int, fully: bool, policy: Policy, state: SourceState
) -> None:
    plan = replace(CATALOG.plans["export_pass"], policy=policy)
    bought = PurchaseFacts("cs_1", "export_pass", 1, START, START, refunded=refunded, fully_refunded=fully)
    (one,) = accesses(CustomerFacts(purchases=(bought,)), lambda *_: None, lambda _: plan)
    assert one.state is state


def test_a_first_payment_that_failed_does_not_stay_free() -> None:
    failed = replace(BASE, first_payment=True, invoice_status=InvoiceStatus.VOID, failed_time=START)
    assert access(failed).state is SourceState.PAYMENT_OVERDUE


def test_a_paid_checkout_settles_the_first_payment_though_the_invoice_is_not_known() -> None:
    facts = replace(BASE, first_payment=True, first_payment_settled=True, invoice_status=None, invoice_known=False)
    assert access(facts).state is SourceState.ACTIVE


def test_a_purchase_for_a_duration_ends_by_itself() -> None:
    facts = CustomerFacts(purchases=(PurchaseFacts("cs_1", "export_pass", 1, START, START + 10),))
    (one,) = accesses(facts, lambda *_: None, CATALOG.plans.get)
    assert (one.state, one.start, one.end) == (
        SourceState.ENDING, at(START + 10), at(START + 10) + timedelta(days=30),
    )  # fmt: skip
    assert one.at(at(START + 10 + 30 * 86_400)).state is SourceState.ENDED


@pytest.mark.parametrize("paid_time", [START, None])
def test_a_purchase_of_a_plan_that_the_catalog_lost_is_unresolved(paid_time: int | None) -> None:
    facts = CustomerFacts(purchases=(PurchaseFacts("cs_1", "gone", 1, START, paid_time),))
    (one,) = accesses(facts, lambda *_: None, CATALOG.plans.get)
    assert one.state is SourceState.UNRESOLVED


def test_a_first_payment_that_is_past_due_gets_no_grace() -> None:
    """Grace is for who has paid before: seven free days for a failing card would be an offer."""
    first = replace(OWED, first_payment=True, failed_time=START)
    assert access(first).state is SourceState.PAYMENT_OVERDUE


def test_grace_ends_with_a_period_that_was_cancelled() -> None:
    one = access(replace(OWED, failed_time=START + MONTH - 60, cancel_at_period_end=True))
    assert one.end == at(START + MONTH)


def test_a_time_at_the_end_of_all_times_is_answered_and_overflows_nothing() -> None:
    last = 253_402_300_799
    item = replace(BASE.items[0], period_end=last)
    assert access(replace(BASE, items=(item,))).end is not None
    assert access(replace(OWED, failed_time=last)).end is not None
