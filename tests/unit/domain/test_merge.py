"""The join is a join: order, duplicates and grouping of what arrives cannot change where an object ends."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_service.domain.frozen import replace
from billing_service.domain.merge import ObjectState, Payload, Read, join, of_read
from billing_service.domain.observation import Claim, Fact, Observation
from billing_service.domain.views import (
    CustomerStatus,
    CustomerView,
    DisputeStatus,
    DisputeView,
    InvoiceStatus,
    InvoiceView,
    ObjectKind,
    PaymentStatus,
    RefundStatus,
    RefundView,
    SessionStatus,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
    View,
)

VIEW = SubscriptionView(
    status=SubscriptionStatus.ACTIVE,
    start=0,
    items=(),
    latest_invoice_id=None,
    cancel_at=None,
    cancel_at_period_end=False,
    ended_at=None,
    trial_end=None,
)
small = st.integers(0, 4)


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    """Payloads near each other in time. Of one event id there is one content and one receipt, as in the database."""
    number = draw(st.integers(0, 9))
    status = list(SubscriptionStatus)[number % len(SubscriptionStatus)]
    return Payload(number // 3, f"evt_{number}", receipt=number, view=replace(VIEW, status=status))


@st.composite
def reads(draw: st.DrawFn) -> Read:
    """Reads with fences of their own: one fence is one answer."""
    fence = draw(st.integers(0, 9))
    status = list(SubscriptionStatus)[(fence * 3) % len(SubscriptionStatus)]
    return Read(fence, request_time=fence // 2, read_time=fence // 2, view=replace(VIEW, status=status))


@st.composite
def states(draw: st.DrawFn) -> ObjectState:
    """States of every make, with neither register too: facts that were told of what nobody has seen yet."""
    return ObjectState(
        "sub_1",
        ObjectKind.SUBSCRIPTION,
        draw(st.sampled_from([None, "cus_1"])),
        draw(st.one_of(st.none(), payloads())),
        draw(st.one_of(st.none(), reads())),
        draw(st.dictionaries(st.sampled_from(list(Fact)), small)),
        draw(st.dictionaries(st.sampled_from(["in_1", "in_2", "in_3"]), small)) or None,
    )


@given(states(), states())
def test_join_is_commutative(one: ObjectState, other: ObjectState) -> None:
    assert join(one, other) == join(other, one)


@given(states(), states(), states())
def test_join_is_associative(one: ObjectState, two: ObjectState, three: ObjectState) -> None:
    assert join(join(one, two), three) == join(one, join(two, three))


@given(states(), states())
def test_join_is_idempotent(one: ObjectState, other: ObjectState) -> None:
    assert join(one, one) == one
    assert join(join(one, other), other) == join(one, other)


@given(st.lists(states(), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_order_with_any_duplicates_ends_the_same(arrived: list[ObjectState], random: object) -> None:
    again = arrived + arrived[::2]
    random.shuffle(again)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    assert reduce(join, again) == reduce(join, arrived)


def state_of(payload: Payload | None = None, read: Read | None = None) -> ObjectState:
    return ObjectState("sub_1", ObjectKind.SUBSCRIPTION, "cus_1", payload, read, {})


def viewed(status: SubscriptionStatus) -> SubscriptionView:
    return replace(VIEW, status=status)


PAST_DUE, ACTIVE, CANCELED = SubscriptionStatus.PAST_DUE, SubscriptionStatus.ACTIVE, SubscriptionStatus.CANCELED


@pytest.mark.parametrize(
    ("created", "receipt", "expected"),
    [
        (9, 1, ACTIVE),  # older than the read
        (10, 1, ACTIVE),  # of the read's second, and recorded before its fence was drawn
        (10, 9, PAST_DUE),  # of the second in which the request left, and recorded after: the read may not have seen it
        (11, 1, PAST_DUE),  # later than what the read can have seen
    ],
)
def test_the_view_is_the_payload_only_where_the_read_cannot_have_seen_it(
    created: int, receipt: int, expected: SubscriptionStatus
) -> None:
    payload = Payload(created, "evt_1", receipt, viewed(PAST_DUE))
    read = Read(fence=5, request_time=10, read_time=10, view=viewed(ACTIVE))
    assert state_of(payload, read).view.status is expected


@pytest.mark.parametrize("ahead_s", [1, 15, 3600])
@pytest.mark.parametrize(
    ("created", "receipt", "expected"),
    [
        (9, 9, ACTIVE),  # older than the answer
        (10, 1, ACTIVE),  # of the answer's second, and recorded before the read's fence was drawn
        (10, 9, PAST_DUE),  # of the answer's second, and recorded after: the read may not have seen it
    ],
)
def test_a_clock_that_runs_ahead_of_stripes_hides_no_payload(
    ahead_s: int, created: int, receipt: int, expected: SubscriptionStatus
) -> None:
    """The request left, by our clock, after the second of the answer."""
    payload = Payload(created, "evt_1", receipt, viewed(PAST_DUE))
    seen = Observation("sub_1", ObjectKind.SUBSCRIPTION, "cus_1", Claim(None, None), viewed(ACTIVE))
    read = of_read(seen, fence=5, request_time=10 + ahead_s, server_time=10, known_created=None)
    assert join(state_of(payload), read).view.status is expected


def test_nothing_leads_out_of_an_absorbing_state() -> None:
    over = state_of(Payload(1, "evt_1", 1, viewed(CANCELED)))
    later = state_of(Payload(9, "evt_2", 2, viewed(ACTIVE)), Read(9, 9, 9, viewed(ACTIVE)))
    assert join(over, later).view.status is CANCELED


SESSION = SessionView(SessionStatus.OPEN, PaymentStatus.UNPAID, "payment", 0, None, None, None, None, 1)
# What each kind of object goes through, the earlier before the later; and of that, what it never leaves again.
LIVES: dict[str, tuple[list[View], set[str]]] = {
    "subscription": (
        [viewed(status) for status in (SubscriptionStatus.INCOMPLETE, ACTIVE, CANCELED)],
        {"canceled", "incomplete_expired"},
    ),
    "subscription that expires": (
        [viewed(status) for status in (SubscriptionStatus.INCOMPLETE, SubscriptionStatus.INCOMPLETE_EXPIRED)],
        {"canceled", "incomplete_expired"},
    ),
    "session": (
        [
            SESSION,
            replace(SESSION, status=SessionStatus.COMPLETE),
            replace(SESSION, status=SessionStatus.COMPLETE, payment_status=PaymentStatus.PAID),
        ],
        {"expired"},
    ),
    "session that expires": ([SESSION, replace(SESSION, status=SessionStatus.EXPIRED)], {"expired"}),
    "invoice that is written off": (
        [InvoiceView(InvoiceStatus(s), 0, None, None, None) for s in ("draft", "open", "uncollectible", "paid")],
        {"void"},
    ),
    "invoice that is voided": (
        [InvoiceView(InvoiceStatus(s), 0, None, None, None) for s in ("draft", "open", "uncollectible", "void")],
        {"void"},
    ),
    "refund": (
        [RefundView(RefundStatus(s), 1, None, None) for s in ("pending", "succeeded", "failed")],
        {"failed", "canceled"},
    ),
    "refund that is taken back": (
        [RefundView(RefundStatus(s), 1, None, None) for s in ("requires_action", "canceled")],
        {"failed", "canceled"},
    ),
    "inquiry": (
        [
            DisputeView(DisputeStatus(s), 1, None, None)
            for s in ("warning_needs_response", "warning_under_review", "warning_closed")
        ],
        set(),
    ),
    "dispute": (
        [
            DisputeView(DisputeStatus(s), 1, None, None)
            for s in (
                "warning_closed", "needs_response", "under_review", "lost", "appeal_needs_response", "appeal_under_review", "won",
            )
        ],
        set(),
    ),
    "dispute that is prevented": (
        [DisputeView(DisputeStatus(s), 1, None, None) for s in ("under_review", "prevented")],
        set(),
    ),
    "customer": ([CustomerView(status) for status in CustomerStatus], {"deleted"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LIVES)
def test_of_two_payloads_of_one_second_the_one_further_along_holds_in_every_life(name: str) -> None:
    """Whichever comes first, and whatever their ids are."""
    life, _ = LIVES[name]
    for before, after in pairwise(life):
        early, late = (
            state_of(Payload(1, id_, n, view)) for id_, n, view in (("evt_z", 1, before), ("evt_a", 2, after))
        )
        assert join(early, late).view == join(late, early).view == after


@pytest.mark.parametrize("name", LIVES)
def test_what_is_absorbing_is_left_by_nothing_and_everything_else_is(name: str) -> None:
    """A lost dispute may be appealed, a written-off invoice paid, and a refund that succeeded can fail."""
    life, absorbing = LIVES[name]
    for first in life:
        for then in [view for view in life if view.status not in absorbing and view != first]:
            states = [state_of(Payload(1, "evt_1", 1, first)), state_of(Payload(9, "evt_2", 2, then))]
            reads = [state_of(read=Read(1, 1, 1, first)), state_of(read=Read(9, 9, 9, then))]
            for earlier in (states[0], reads[0]):
                for later in (states[1], reads[1]):
                    assert join(earlier, later).view == (first if first.status in absorbing else then)


def test_two_payloads_of_one_second_are_told_apart_by_how_far_along_they_are() -> None:
    created = state_of(Payload(1, "evt_z", 1, viewed(SubscriptionStatus.INCOMPLETE)))
    updated = state_of(Payload(1, "evt_a", 2, viewed(ACTIVE)))
    assert join(created, updated).view.status is ACTIVE


def test_an_object_of_which_only_facts_were_told_says_nothing_until_it_is_seen() -> None:
    told = replace(state_of(), facts={Fact.PAYMENT_FAILED: 1})
    assert not told.is_seen
    with pytest.raises(ValueError, match="not seen"):
        _ = told.view
    seen = join(told, state_of(Payload(9, "evt_1", 1, viewed(ACTIVE))))
    assert (seen.is_seen, seen.view.status, seen.facts) == (True, ACTIVE, {Fact.PAYMENT_FAILED: 1})


def test_states_of_two_objects_are_not_joined() -> None:
    with pytest.raises(ValueError, match="one object"):
        join(state_of(), replace(state_of(), object_id="sub_2"))
