"""Old and new shapes say the same; an unknown shape is malformed, never half-read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_service.domain.json_fields import MalformedError
from billing_service.domain.merge import of_read
from billing_service.domain.observation import HANDLED_TYPES, Fact, Notice, observe, read_event
from billing_service.domain.views import InvoiceView, ObjectKind, SubscriptionView
from tests.stripe_events import MONTH, START, event, export_pass, invoice, session, subscription, thin_event


def test_a_period_on_the_subscription_says_the_same_as_one_on_its_item() -> None:
    new = subscription("ann")
    old = subscription("ann", current_period_start=START, current_period_end=START + MONTH)
    for item in old["items"]["data"]:
        del item["current_period_start"], item["current_period_end"]
    assert observe(old, ObjectKind.SUBSCRIPTION) == observe(new, ObjectKind.SUBSCRIPTION)


def test_of_several_items_one_period_is_vague_and_periods_of_their_own_are_not() -> None:
    """Before basil a subscription had one period for all of them; which item it is of is for a read to say."""
    new = subscription("ann")
    new["items"]["data"].append(new["items"]["data"][0] | {"id": "si_other", "current_period_end": START + 12 * MONTH})
    assert not observe(new, ObjectKind.SUBSCRIPTION).is_vague
    old = new | {"current_period_start": START, "current_period_end": START + MONTH}
    for item in old["items"]["data"]:
        del item["current_period_start"], item["current_period_end"]
    assert observe(old, ObjectKind.SUBSCRIPTION).is_vague


def test_an_invoice_names_its_subscription_at_the_top_or_under_its_parent() -> None:
    new = invoice("ann")
    details = {"metadata": new["parent"]["subscription_details"]["metadata"]}
    old = {key: value for key, value in new.items() if key != "parent"}
    old |= {"subscription": "sub_ann", "subscription_details": details}
    assert observe(old, ObjectKind.INVOICE) == observe(new, ObjectKind.INVOICE)


def test_expanded_references_say_the_same_as_bare_ids() -> None:
    bare = subscription("ann")
    expanded = bare | {"customer": {"id": "cus_ann", "object": "customer"}, "latest_invoice": invoice("ann")}
    assert observe(expanded, ObjectKind.SUBSCRIPTION) == observe(bare, ObjectKind.SUBSCRIPTION)


@pytest.mark.parametrize(
    ("intent_status", "session_status", "payment_status", "failed"),
    [
        ("requires_payment_method", "complete", "unpaid", True),
        ("canceled", "complete", "unpaid", True),
        ("processing", "complete", "unpaid", False),  # a debit on its way
        ("requires_action", "complete", "unpaid", False),  # a voucher or transfer that the payer may still pay
        ("requires_capture", "complete", "unpaid", False),
        ("one_of_tomorrow", "complete", "unpaid", False),
        ("requires_payment_method", "open", "unpaid", False),  # a card was declined; the page can still be paid
        ("requires_payment_method", "complete", "paid", False),
        ("canceled", "expired", "unpaid", False),
    ],
)
def test_a_read_of_a_session_tells_by_its_payment_intent_whether_a_delayed_payment_failed(
    intent_status: str, session_status: str, payment_status: str, failed: bool
) -> None:
    """What the type of `async_payment_failed` says, where that event was lost; with or without an error beside it."""
    read = export_pass("ann", status=session_status, payment_status=payment_status)
    read["payment_intent"] = {
        "id": "pi_ann",
        "object": "payment_intent",
        "status": intent_status,
        "last_payment_error": None,
    }
    state = of_read(
        observe(read, ObjectKind.CHECKOUT_SESSION), fence=1, request_time=9, server_time=9, known_created=None
    )
    assert (Fact.PAYMENT_FAILED in state.facts) is failed


@pytest.mark.parametrize(
    ("event_type", "facts"),
    [
        ("checkout.session.async_payment_failed", {Fact.PAYMENT_FAILED: START}),
        ("checkout.session.async_payment_succeeded", {Fact.PAID: START}),
        ("checkout.session.completed", {}),  # paid or not, it does not say
        ("invoice.payment_failed", {Fact.PAYMENT_FAILED: START}),
        ("invoice.payment_action_required", {Fact.PAYMENT_FAILED: START}),
        ("invoice.finalization_failed", {Fact.FINALIZATION_FAILED: START}),
        ("invoice.paid", {}),
    ],
)
def test_a_thin_event_tells_what_its_type_says_and_no_more(event_type: str, facts: dict[Fact, int]) -> None:
    assert read_event(json.loads(thin_event(event_type, "x_1"))).facts == facts


def test_fields_that_are_not_known_are_passed_over() -> None:
    assert observe(session("ann", novelty=[1]), ObjectKind.CHECKOUT_SESSION) == observe(
        session("ann"), ObjectKind.CHECKOUT_SESSION
    )


def test_an_event_with_some_of_the_items_of_a_subscription_tells_only_that_something_happened_to_it() -> None:
    """As a thin one does. It is never half-read."""
    some = subscription("ann")["items"] | {"has_more": True}
    body = json.loads(event("customer.subscription.updated", subscription("ann", items=some)))
    told = read_event(body)
    assert (told.is_used, told.observation) == (True, None)
    assert told.notice == Notice("sub_ann", ObjectKind.SUBSCRIPTION)
    body["data"]["object"]["id"] = "sub/ann"
    with pytest.raises(MalformedError):
        read_event(body)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ObjectKind.SUBSCRIPTION, subscription("ann", "of_next_year")),
        (ObjectKind.SUBSCRIPTION, subscription("ann", items={"data": []})),
        (ObjectKind.SUBSCRIPTION, subscription("ann", items=subscription("ann")["items"] | {"has_more": True})),
        (ObjectKind.SUBSCRIPTION, subscription("ann", cancel_at="tomorrow")),
        (ObjectKind.SUBSCRIPTION, subscription("ann", cancel_at=True)),
        (ObjectKind.SUBSCRIPTION, subscription("ann", customer=7)),
        (ObjectKind.SUBSCRIPTION, session("ann")),
        (ObjectKind.SUBSCRIPTION, subscription("ann", quantity=2**31)),
        (ObjectKind.SUBSCRIPTION, subscription("ann", quantity=-1)),
        (ObjectKind.CHECKOUT_SESSION, session("ann", payment_status="maybe")),
        (ObjectKind.CHECKOUT_SESSION, session("ann", metadata={"billing_quantity": "many"})),
        (ObjectKind.CHECKOUT_SESSION, session("ann", created=10**15)),
        (ObjectKind.INVOICE, invoice("ann", "of_next_year", parent="sub_ann")),
    ],
)
def test_a_shape_that_is_not_known_is_malformed(kind: ObjectKind, data: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        observe(data, kind)


@pytest.mark.parametrize("status", ["of_next_year", "", None, 7, ["active"], {"active": 1}])
def test_a_status_of_whatever_kind_that_is_not_known_is_named_in_the_same_words(status: object) -> None:
    """They are what an operator reads in the quarantine."""
    with pytest.raises(MalformedError, match=r"^status is not one that is known$"):
        observe(subscription("ann") | {"status": status}, ObjectKind.SUBSCRIPTION)


def test_an_empty_text_that_may_be_absent_says_as_much_as_none() -> None:
    seen = observe(invoice("ann", billing_reason=""), ObjectKind.INVOICE).view
    assert isinstance(seen, InvoiceView)
    assert seen.billing_reason is None


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@given(st.sampled_from([subscription("a"), session("a"), invoice("a")]), st.data())
def test_whatever_one_field_holds_it_is_understood_or_malformed(base: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(base)))
    body = base | {key: data.draw(json_values)}
    kind = ObjectKind(base["object"])
    types = [name for name, handled in HANDLED_TYPES.items() if handled is kind]
    try:
        understood = read_event(json.loads(event(data.draw(st.sampled_from(types)), body)))
    except MalformedError:
        return
    assert understood.observation is not None
    assert isinstance(understood.observation.object_id, str)


def test_views_hold_what_the_fold_needs() -> None:
    seen = observe(subscription("ann"), ObjectKind.SUBSCRIPTION).view
    assert isinstance(seen, SubscriptionView)
    assert seen.items[0].period_end == START + MONTH
    billed = observe(invoice("ann"), ObjectKind.INVOICE).view
    assert isinstance(billed, InvoiceView)
    assert billed.subscription_id == "sub_ann"
