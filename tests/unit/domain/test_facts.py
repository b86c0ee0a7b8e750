"""What is gathered from objects: who has paid before is not at a first payment any more."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from billing_service.domain.bills import LATER_S
from billing_service.domain.facts import CustomerFacts, gather
from billing_service.domain.merge import ObjectState, join, of_event, of_read
from billing_service.domain.observation import observe, read_event
from billing_service.domain.payments import DisputeStanding
from billing_service.domain.views import InvoiceStatus, ObjectKind
from tests.stripe_events import (
    START,
    charge,
    dispute,
    event,
    export_pass,
    invoice,
    invoice_payment,
    refund,
    session,
    subscription,
)

DAY = 86_400


def gathered(*bodies: bytes) -> CustomerFacts:
    """Merge events in their order and gather the facts."""
    return gather(states(*bodies))


def states(*bodies: bytes) -> list[ObjectState]:
    """Merge events in their order."""
    known: dict[str, ObjectState] = {}
    for receipt, body in enumerate(bodies):
        understood = read_event(json.loads(body))
        assert understood.observation is not None
        state = of_event(understood, understood.observation, receipt)
        there = known.get(state.object_id)
        known[state.object_id] = state if there is None else join(there, state)
    return [*known.values()]


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
    state = of_read(seen, fence=1, request_time=START + 10, server_time=0, known_created=None)
    assert state.read is not None
    assert (state.read.read_time, state.told_time) == (START + 10, START + 10)


def test_what_is_held_to_be_was_told_when_the_register_was_that_says_it() -> None:
    told = read_event(json.loads(event("checkout.session.completed", export_pass("ann"), created=START + 60)))
    assert told.observation is not None
    payload = of_event(told, told.observation, 2)
    before, after = (
        of_read(told.observation, fence=fence, request_time=START + at, server_time=START + at, known_created=None)
        for fence, at in ((1, 30), (3, 90))
    )
    assert (payload.told_time, before.told_time) == (START + 60, START + 30)
    assert (join(payload, before).told_time, join(payload, after).told_time) == (START + 60, START + 90)


def test_a_purchase_that_is_only_read_was_paid_before_its_page_expired() -> None:
    """Whenever it is read: what was bought for thirty days forty days ago is over. An event that comes says it to the second."""
    seen = observe(export_pass("ann"), ObjectKind.CHECKOUT_SESSION)
    late, soon = (
        of_read(seen, fence=1, request_time=time, server_time=time, known_created=None)
        for time in (START + 40 * DAY, START + 90)
    )
    assert [gather([read]).purchases[0].paid_time for read in (late, soon)] == [START + DAY, START + 90]
    told = read_event(json.loads(event("checkout.session.completed", export_pass("ann"), created=START + 60)))
    assert told.observation is not None
    (purchase,) = gather([join(late, of_event(told, told.observation, 2))]).purchases
    assert purchase.paid_time == START + 60


def test_a_delayed_payment_that_only_a_read_tells_of_was_paid_by_then() -> None:
    """Where an event had told that its page was completed. One that was only seen open may have been paid on for a day."""
    (page,) = states(event("checkout.session.completed", export_pass("ann", payment_status="unpaid")))
    shown = observe(export_pass("ann", status="open", payment_status="unpaid"), ObjectKind.CHECKOUT_SESSION)
    opened = of_read(shown, fence=1, request_time=START, server_time=START, known_created=None)
    seen = observe(export_pass("ann"), ObjectKind.CHECKOUT_SESSION)
    time = START + 7 * DAY
    for known, paid_time in ((page, time), (opened, START + DAY)):
        told = known.tells_of_completion
        read = of_read(seen, fence=2, request_time=time, server_time=time, known_created=START, was_told=told)
        assert gather([join(known, read)]).purchases[0].paid_time == paid_time


def test_a_delayed_payment_that_was_read_before_anybody_told_of_it_was_paid_when_its_event_says() -> None:
    """All webhooks of five days came late, and somebody had the purchases read first: the thirty days are not to be twenty-six."""
    seen = observe(export_pass("ann"), ObjectKind.CHECKOUT_SESSION)
    time = START + 6 * DAY
    read = of_read(seen, fence=1, request_time=time, server_time=time, known_created=None)
    page = event("checkout.session.completed", export_pass("ann", payment_status="unpaid"))
    paid = event("checkout.session.async_payment_succeeded", export_pass("ann"), created=START + 5 * DAY)
    for order in permutations([page, paid]):
        (told,) = states(*order)
        assert gather([join(read, told)]).purchases[0].paid_time == START + 5 * DAY


def test_a_read_moves_nothing_of_a_delayed_payment_that_an_event_told_of() -> None:
    """It was paid days after its page expired; the slow look that follows each event must not take them from it."""
    paid = read_event(
        json.loads(event("checkout.session.async_payment_succeeded", export_pass("ann"), created=START + 5 * DAY))
    )
    assert paid.observation is not None
    state = of_event(paid, paid.observation, 1)
    time = START + 5 * DAY + 900
    read = of_read(
        paid.observation,
        fence=2,
        request_time=time,
        server_time=time,
        known_created=START + 5 * DAY,
        was_told=state.tells_of_completion,
    )
    assert gather([join(state, read)]).purchases[0].paid_time == START + 5 * DAY


@pytest.mark.parametrize("shown", ["event", "read"])
def test_an_invoice_that_was_given_up_after_a_try_failed_whoever_tells_of_it(shown: str) -> None:
    """Paused collection tries nothing; a failure of which nobody told was no less one."""
    for attempted, failed in ((True, True), (False, False)):
        body = invoice(
            "ann", "uncollectible", id="in_2", created=START + 50, billing_reason="subscription_cycle", attempted=attempted,
            status_transitions={"finalized_at": START + 55},
        )  # fmt: skip
        given_up = event("invoice.marked_uncollectible", body, created=START + 60)
        if shown == "event":
            (facts,) = gathered(CREATED, UPGRADED, given_up).subscriptions
        else:
            at = START + 60
            read = of_read(
                observe(body, ObjectKind.INVOICE), fence=9, request_time=at, server_time=at, known_created=None
            )
            (facts,) = gather([*states(CREATED, UPGRADED), read]).subscriptions
        assert (facts.invoice_failed, facts.failed_time) == (failed, START + 55 if failed else None)


def test_past_due_is_not_settled_by_the_invoice_of_the_period_before() -> None:
    """The latest invoice is of a change that was dropped, and of the one that is overdue nobody told us."""
    late = subscription("ann", "past_due", latest_invoice="in_v")
    late["items"]["data"][0] |= {"current_period_start": START + 30 * DAY, "current_period_end": START + 60 * DAY}
    dropped = invoice("ann", "void", id="in_v", created=START + 40 * DAY, billing_reason="subscription_update")
    (facts,) = gathered(
        CREATED,
        event("invoice.paid", invoice("ann")),
        event("customer.subscription.updated", late, created=START + 41 * DAY),
        event("invoice.voided", dropped, created=START + 41 * DAY),
    ).subscriptions
    assert (facts.invoice_status, facts.invoice_known, facts.due_time) == (None, False, START + 41 * DAY)


def test_past_due_is_settled_by_the_renewal_that_was_paid_where_a_change_was_dropped_since() -> None:
    """Stripe goes by the latest invoice, which is void. What was before the change stands, and that is paid; torture found it, seed 151."""
    began = START + 30 * DAY
    late = subscription("ann", "past_due", latest_invoice="in_v")
    late["items"]["data"][0] |= {"current_period_start": began, "current_period_end": START + 60 * DAY}
    renewal = invoice("ann", "open", id="in_2", created=began, billing_reason="subscription_cycle")
    dropped = invoice("ann", "void", id="in_v", created=began + 2 * DAY, billing_reason="subscription_update")
    after = [
        event("customer.subscription.updated", late, created=began + 2 * DAY),
        event("invoice.payment_failed", renewal, created=began + 3600),
        event("invoice.paid", renewal | {"status": "paid"}, created=began + 2 * DAY + 5),
        event("invoice.voided", dropped, created=began + 3 * DAY),
    ]
    for order in permutations(after):
        (facts,) = gathered(CREATED, event("invoice.paid", invoice("ann")), *order).subscriptions
        assert (facts.invoice_status, facts.failed_time, facts.due_time) == (InvoiceStatus.PAID, None, None)


def test_past_due_is_not_settled_by_a_change_that_asked_for_nothing() -> None:
    """Somebody takes one seat less while the renewal is overdue. What Stripe calls paid is the credit for what nobody paid."""
    began = START + 30 * DAY
    late = subscription("ann", "past_due", latest_invoice="in_3")
    late["items"]["data"][0] |= {"current_period_start": began, "current_period_end": START + 60 * DAY}
    renewal = invoice("ann", "open", id="in_2", created=began, billing_reason="subscription_cycle")
    credit = invoice("ann", id="in_3", created=began + 2 * DAY, billing_reason="subscription_update", amount_due=0)
    after = [
        event("invoice.payment_failed", renewal, created=began + 3600),
        event("invoice.paid", credit, created=began + 2 * DAY),
        event("customer.subscription.updated", late, created=began + 2 * DAY),
    ]
    for order in permutations(after):
        (facts,) = gathered(CREATED, event("invoice.paid", invoice("ann")), *order).subscriptions
        assert (facts.invoice_status, facts.failed_time) == (InvoiceStatus.OPEN, began + 3600)
    (facts,) = gathered(*after[1:]).subscriptions  # who was there before us: of the renewal nobody told
    assert (facts.invoice_status, facts.first_payment, facts.due_time) == (None, False, began + 2 * DAY)
    paid = event("invoice.paid", renewal | {"status": "paid"}, created=began + 3 * DAY)
    (facts,) = gathered(*after, paid).subscriptions
    assert (facts.invoice_status, facts.failed_time) == (InvoiceStatus.PAID, None)


def test_a_first_payment_that_is_awaited_stays_so_where_nobody_told_of_its_invoice_and_a_change_was_dropped() -> None:
    """The page was completed and waits for its debit. A change was dropped, another began a period and charged nothing; torture found it, seed 163."""
    began = START + 2 * DAY
    page = event("checkout.session.completed", session("ann", payment_status="unpaid"))
    anew = event(
        "customer.subscription.updated",
        subscription("ann", latest_invoice="in_v", start=began) | {"start_date": START},
        created=began,
    )
    change = invoice("ann", "open", id="in_v", created=START + DAY, billing_reason="subscription_update")
    failed = event("invoice.payment_failed", change, created=START + DAY)
    dropped = event("invoice.voided", change | {"status": "void"}, created=began)
    for order in permutations([page, anew, failed, dropped]):
        (facts,) = gathered(CREATED, *order).subscriptions
        assert (facts.first_payment, facts.first_payment_settled) == (True, False)
        assert (facts.invoice_status, facts.invoice_known) == (None, False)
    paid = event("checkout.session.async_payment_succeeded", session("ann"), created=START + 3 * DAY)
    (facts,) = gathered(CREATED, page, anew, failed, dropped, paid).subscriptions
    assert (facts.first_payment, facts.first_payment_settled) == (False, True)


@pytest.mark.parametrize(("later", "owed"), [(0, True), (1, True), (LATER_S, True), (LATER_S + 1, False)])
def test_a_change_that_began_a_period_and_was_never_paid_is_owed(later: int, owed: bool) -> None:
    """From monthly to yearly by bank debit: unlike a pending update, it was made before it was paid. Stripe makes the invoice a second later."""
    began = START + 10 * DAY
    yearly = subscription("ann", latest_invoice="in_2")
    yearly["items"]["data"][0] |= {"current_period_start": began, "current_period_end": began + 365 * DAY}
    bill = invoice("ann", "open", id="in_2", billing_reason="subscription_update", created=began + later)
    changed = event("customer.subscription.updated", yearly, created=began)
    failed = event("invoice.payment_failed", bill, created=began + 50)
    voided = event("invoice.voided", bill | {"status": "void"}, created=began + 90)
    expected = (InvoiceStatus.VOID, began + 50) if owed else (InvoiceStatus.PAID, None)
    for order in permutations([CREATED, event("invoice.paid", invoice("ann")), changed, failed, voided]):
        (facts,) = gathered(*order).subscriptions
        assert (facts.invoice_status, facts.failed_time) == expected


def test_a_change_that_is_dropped_gives_nothing_of_a_period_that_another_began_unpaid() -> None:
    """The invoice that began the year is past by then, and of the two that went void it is the one that counts."""
    began, dropped_at = START + 10 * DAY, START + 30 * DAY
    yearly = subscription("ann", latest_invoice="in_2")
    yearly["items"]["data"][0] |= {"current_period_start": began, "current_period_end": began + 365 * DAY}
    bill = invoice("ann", "open", id="in_2", billing_reason="subscription_update", created=began)
    dropped = invoice("ann", "void", id="in_3", billing_reason="subscription_update", created=dropped_at)
    bodies = [
        event("invoice.payment_failed", bill, created=began + 5),
        event("invoice.voided", bill | {"status": "void"}, created=began + 9),
        event("customer.subscription.updated", yearly | {"latest_invoice": "in_3"}, created=dropped_at),
        event("invoice.voided", dropped, created=dropped_at + DAY),
    ]
    for order in permutations(bodies):
        (facts,) = gathered(CREATED, event("invoice.paid", invoice("ann")), *order).subscriptions
        assert (facts.invoice_status, facts.invoice_failed, facts.failed_time) == (InvoiceStatus.VOID, True, began + 5)


def test_a_change_that_was_dropped_before_a_renewal_that_nobody_told_of_began_nothing() -> None:
    """Two pending updates that expired, with a renewal between them: what is known to be paid counts on."""
    renewed = subscription("ann", latest_invoice="in_4")
    renewed["items"]["data"][0] |= {"current_period_start": START + 30 * DAY, "current_period_end": START + 60 * DAY}
    bodies = [event("customer.subscription.updated", renewed, created=START + 35 * DAY)]
    for number, day in ((2, 5), (4, 34)):
        bill = invoice(
            "ann", "open", id=f"in_{number}", billing_reason="subscription_update", created=START + day * DAY
        )
        bodies.append(event("invoice.payment_failed", bill, created=START + day * DAY + 1))
        bodies.append(event("invoice.voided", bill | {"status": "void"}, created=START + (day + 1) * DAY))
    for order in permutations(bodies):
        (facts,) = gathered(CREATED, event("invoice.paid", invoice("ann")), *order).subscriptions
        assert (facts.invoice_status, facts.failed_time) == (InvoiceStatus.PAID, None)


def test_an_overdue_invoice_that_nobody_told_of_is_due_since_the_subscription_says_so() -> None:
    """In the middle of a year it would else be due since its beginning, and the grace long over."""
    late = subscription("ann", "past_due", latest_invoice="in_2")
    (facts,) = gathered(CREATED, event("customer.subscription.updated", late, created=START + 100 * DAY)).subscriptions
    assert facts.due_time == START + 100 * DAY


def test_grace_is_counted_from_the_first_word_of_past_due_however_often_it_is_said() -> None:
    """Until somebody tells of the invoice. Another invoice that is the latest is another debt."""
    late = subscription("ann", "past_due", latest_invoice="in_2")
    times = [START + days * DAY for days in (100, 101, 104)]
    words = [event("customer.subscription.updated", late, created=time) for time in times]
    for order in permutations(words):
        (facts,) = gathered(CREATED, *order).subscriptions
        assert facts.due_time == times[0]
    read = of_read(
        observe(late, ObjectKind.SUBSCRIPTION), fence=9, request_time=times[2] + 9, server_time=0, known_created=None
    )
    (known,) = states(CREATED, words[0])
    assert gather([join(known, read)]).subscriptions[0].due_time == times[0]
    only_read = of_read(
        observe(late, ObjectKind.SUBSCRIPTION), fence=1, request_time=times[0] - 9, server_time=0, known_created=None
    )
    assert gather([join(known, only_read)]).subscriptions[0].due_time == times[0] - 9
    another = event("customer.subscription.updated", late | {"latest_invoice": "in_3"}, created=START + 130 * DAY)
    (facts,) = gathered(CREATED, another, *words).subscriptions
    assert facts.due_time == START + 130 * DAY


def test_an_invoice_that_is_sent_is_overdue_from_when_it_was_due() -> None:
    """`collection_method=send_invoice`: a month to pay in is no part of the grace, and nothing fails."""
    due = START + 60 * DAY
    sent = invoice(
        "ann", "open", id="in_2", created=START + 30 * DAY, billing_reason="subscription_cycle", due_date=due
    )
    late = subscription("ann", "past_due", latest_invoice="in_2")
    bodies = [
        event("invoice.finalization_failed", sent, created=START + 30 * DAY),
        event("customer.subscription.updated", late, created=due + 1),
    ]
    for order in permutations(bodies):
        assert gathered(CREATED, event("invoice.paid", invoice("ann")), *order).subscriptions[0].due_time == due


def sent_invoice(status: str = "open", **more: object) -> dict[str, object]:
    return invoice("ann", status, due_date=START + 45 * DAY) | more


@pytest.mark.parametrize("status", ["open", "void"])
def test_what_is_tried_on_an_invoice_that_is_sent_is_no_failure(status: str) -> None:
    """Whoever pays tries a card that is declined, long before it is due. Nothing is late then, and no grace has begun."""
    tried = sent_invoice(id="in_2", created=START + 30 * DAY, billing_reason="subscription_cycle", attempted=True)
    late = subscription("ann", "past_due" if status == "open" else "active", latest_invoice="in_2")
    bodies = [
        event("invoice.paid", invoice("ann")),
        event("invoice.payment_failed", tried, created=START + 31 * DAY),
        event("customer.subscription.updated", late, created=START + 46 * DAY),
    ]
    if status == "void":
        bodies.append(event("invoice.voided", tried | {"status": "void"}, created=START + 46 * DAY))
    for order in permutations(bodies):
        (facts,) = gathered(CREATED, *order).subscriptions
        assert (facts.failed_time, facts.due_time) == (None, START + 45 * DAY)
        assert facts.invoice_failed is (False if status == "void" else None)


@pytest.mark.parametrize(
    ("why", "unpaid"),
    [
        ("first_payment_failure", True),
        ("final_payment_failure", True),
        ("pause_requested", False),
        ("trial_end_without_payment_method", False),
        ("something_new", False),
        (None, False),
    ],
)
def test_one_that_stripe_paused_because_nobody_paid_is_known_as_such(why: str | None, unpaid: bool) -> None:
    """https://docs.stripe.com/billing/revenue-recovery/smart-retries/pause-on-payment-failure; before there were no such details."""
    paused = {"paused": {"subscription": {"type": why}, "transitioned_at": START, "type": "subscription"}}
    told = subscription("ann", "paused") | ({"status_details": paused} if why else {})
    (facts,) = gathered(event("customer.subscription.paused", told)).subscriptions
    assert facts.paused_unpaid is unpaid


@pytest.mark.parametrize("heard", ["draft", "open"])
def test_who_was_sent_the_first_invoice_and_has_not_paid_it_is_at_the_first_payment_in_the_next_period_too(
    heard: str,
) -> None:
    """There may be more time to pay in than a period has days; that a draft was sent nobody tells us."""
    began = START + 30 * DAY
    renewed = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    due_date = START + 45 * DAY if heard == "open" else None
    told = event("invoice.finalization_failed", invoice("ann", heard, due_date=due_date), created=START)
    bodies = [CREATED, told, event("customer.subscription.updated", renewed, created=began)]
    for order in permutations(bodies):
        assert gathered(*order).subscriptions[0].first_payment
    paid = event("invoice.paid", sent_invoice("paid"), created=began + DAY)
    assert not gathered(*bodies, paid).subscriptions[0].first_payment


def test_a_later_invoice_that_fails_begins_no_new_grace_while_one_that_was_sent_before_is_overdue() -> None:
    """Somebody who was sent invoices is charged by a card since."""
    sent = sent_invoice(
        id="in_2", created=START + 30 * DAY, due_date=START + 44 * DAY, billing_reason="subscription_cycle"
    )
    tried = invoice("ann", "open", id="in_3", created=START + 60 * DAY, billing_reason="subscription_cycle")
    late = subscription("ann", "past_due", latest_invoice="in_3")
    bodies = [
        event("invoice.paid", invoice("ann")),
        event("invoice.finalization_failed", sent, created=START + 31 * DAY),
        event("invoice.payment_failed", tried, created=START + 61 * DAY),
        event("customer.subscription.updated", late, created=START + 61 * DAY),
    ]
    for order in permutations(bodies):
        assert gathered(CREATED, *order).subscriptions[0].failed_time == START + 44 * DAY


def test_changes_that_are_dropped_do_not_restart_the_grace_of_an_invoice_that_nobody_told_of() -> None:
    bodies = [event("invoice.paid", invoice("ann", created=START + 20 * DAY))]
    for number, day in ((1, 10), (2, 30), (3, 31), (4, 33)):  # the first was before what is paid
        late = subscription("ann", "past_due", latest_invoice=f"in_{number}")
        if day >= 30:
            late["items"]["data"][0] |= {
                "current_period_start": START + 30 * DAY,
                "current_period_end": START + 60 * DAY,
            }
        bodies.append(event("customer.subscription.updated", late, created=START + day * DAY))
    for number in (3, 4):
        dropped = invoice("ann", "void", id=f"in_{number}", created=START, billing_reason="subscription_update")
        bodies.append(event("invoice.voided", dropped, created=START + 34 * DAY))
    (facts,) = gathered(CREATED, *bodies).subscriptions
    assert (facts.invoice_status, facts.due_time) == (None, START + 30 * DAY)


@pytest.mark.parametrize("status", ["draft", "open", "void", None])
def test_who_never_paid_is_at_the_first_payment_in_the_next_period_too(status: str | None) -> None:
    """The first debit came back; Stripe leaves the subscription active, and bills it again. Of who came before us nothing is known."""
    began = START + 30 * DAY
    renewed = subscription("ann", latest_invoice="in_2", start=began) | {"start_date": START}
    returned = event("invoice.voided", invoice("ann", "void"), created=START + 5 * DAY)
    bodies = [event("customer.subscription.updated", renewed, created=began)]
    if status is not None:
        bill = invoice("ann", status, id="in_2", billing_reason="subscription_cycle", created=began)
        bodies.append(event("invoice.payment_failed", bill, created=began + 1))
    for order in permutations([CREATED, returned, *bodies]):
        assert gathered(*order).subscriptions[0].first_payment
    under_way = event("invoice.finalization_failed", invoice("ann", "open"), created=START)
    for known in ([CREATED], [CREATED, under_way]):
        assert not gathered(*known, *bodies).subscriptions[0].first_payment
    paid = event("invoice.paid", invoice("ann", id="in_1", created=START + 6 * DAY))
    assert not gathered(CREATED, returned, *bodies, paid).subscriptions[0].first_payment


YEAR, MONTHLY = 365 * DAY, 30 * DAY


@pytest.mark.parametrize(
    ("begins", "lost", "paid", "stands"),
    [
        # of which the year began at 0; the period of the monthly item that runs, the invoice that was lost, the one that is paid
        (30, ("subscription_create", 0), 30, True),  # what began the year is not made up for by a month
        (60, ("subscription_cycle", 30), 60, False),  # a month is, by the next
        (60, ("subscription_cycle", 30), None, True),
        (60, ("subscription_cycle", 30), 31, True),
        (30, ("subscription_cycle", 31), None, True),  # one that came late makes not up for itself
        (30, ("subscription_cycle", 30), 40, True),  # a change that is paid in the same month
        (60, ("subscription_update", 35), 60, True),  # of a change it is not known which item it was of
        (60, (None, 35), 60, True),
    ],
)
def test_a_lost_dispute_stands_until_all_that_it_may_have_paid_for_is_paid_anew(
    begins: int, lost: tuple[str | None, int], paid: int | None, stands: bool
) -> None:
    """Of a subscription with a yearly and a monthly item."""
    reason, day = lost
    mixed = subscription("ann", latest_invoice="in_2")
    (yearly,) = mixed["items"]["data"]
    monthly = yearly | {"id": "si_2", "current_period_start": START + begins * DAY}
    yearly |= {"current_period_end": START + YEAR}
    mixed["items"]["data"].append(monthly | {"current_period_end": monthly["current_period_start"] + MONTHLY})
    bodies = [
        event("customer.subscription.updated", mixed, created=START + begins * DAY),
        event("invoice.paid", invoice("ann", created=START + day * DAY, billing_reason=reason)),
        event("invoice_payment.paid", invoice_payment("ann")),
        event("charge.dispute.closed", dispute("ann", "lost")),
    ]
    if paid is not None:
        later = invoice("ann", id="in_2", created=START + paid * DAY, billing_reason="subscription_cycle")
        bodies.append(event("invoice.paid", later))
    (facts,) = gathered(*bodies).subscriptions
    assert facts.dispute is (DisputeStanding.LOST if stands else None)


def test_a_lost_dispute_is_over_once_every_item_has_another_period_that_is_paid() -> None:
    mixed = subscription("ann", latest_invoice="in_2", start=START + YEAR)
    mixed["items"]["data"].append(mixed["items"]["data"][0] | {"id": "si_2"})
    (facts,) = gathered(
        event("customer.subscription.updated", mixed | {"start_date": START}, created=START + YEAR),
        event("invoice.paid", invoice("ann", billing_reason="subscription_update")),
        event("invoice.paid", invoice("ann", id="in_2", created=START + YEAR, billing_reason="subscription_cycle")),
        event("invoice_payment.paid", invoice_payment("ann")),
        event("charge.dispute.closed", dispute("ann", "lost")),
    ).subscriptions
    assert facts.dispute is None


def test_what_a_charge_says_beyond_the_refunds_that_are_known_was_returned_too() -> None:
    bought = event("checkout.session.completed", export_pass("ann"))
    known = event("refund.created", refund("ann", 1000), created=START + 10)
    charged = event("charge.refunded", charge("ann", 2500), created=START + 20)
    for order in permutations([bought, known, charged]):
        (purchase,) = gathered(*order).purchases
        assert (purchase.refunded, purchase.fully_refunded) == (2500, True)
    later = event("refund.created", refund("ann", 1500, number=2), created=START + 20)
    before_it = event("charge.refunded", charge("ann", 1000), created=START + 10)
    (purchase,) = gathered(bought, known, before_it, later).purchases
    assert (purchase.refunded, purchase.fully_refunded) == (2500, True)
    came_back = event("refund.failed", refund("ann", 1000) | {"status": "failed"}, created=START + 30)
    (purchase,) = gathered(bought, known, charged, came_back).purchases
    assert (purchase.refunded, purchase.fully_refunded) == (1500, False)
    # By refunds of which the one that came back is none.
    again = event("charge.refunded", charge("ann", 2500), created=START + 40)
    for order in permutations([bought, known, charged, came_back, again]):
        (purchase,) = gathered(*order).purchases
        assert (purchase.refunded, purchase.fully_refunded) == (2500, True)
