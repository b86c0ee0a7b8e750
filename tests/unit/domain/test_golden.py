"""Both shapes of every handled type say the same; a shape that nobody knows is malformed as a whole, never half-read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_service.domain.json_fields import MalformedError
from billing_service.domain.merge import of_event
from billing_service.domain.observation import HANDLED_TYPES, Event, read_event
from tests.golden.payloads import GOLDEN, Shape, payload

OTHERS = sorted({Shape.OLD, Shape.EXPANDED})
# What only one of the shapes can say: an old invoice names its payment, a new one has invoice_payment.paid for that.
STATELESS = {"charge", "customer", "invoice_payment"}  # of these no status is used
SAID_IN_ONE = {"payment_intent_id"}


def understood(event_type: str, shape: Shape) -> Event:
    return read_event(json.loads(payload(event_type, shape)))


def test_there_is_a_golden_payload_of_every_handled_type() -> None:
    assert GOLDEN.keys() == HANDLED_TYPES.keys()


@pytest.mark.parametrize("shape", OTHERS)
@pytest.mark.parametrize("event_type", sorted(GOLDEN))
def test_every_shape_of_a_type_says_the_same(event_type: str, shape: Shape) -> None:
    one, other = understood(event_type, Shape.NEW), understood(event_type, shape)
    assert one.observation is not None
    assert other.observation is not None
    views = [
        {key: getattr(seen.view, key) for key in seen.view.__annotations__ if key not in SAID_IN_ONE}
        for seen in (one.observation, other.observation)
    ]
    assert views[0] == views[1]
    ours = [(s.object_id, s.kind, s.stripe_customer_id, s.claim) for s in (one.observation, other.observation)]
    assert ours[0] == ours[1]
    assert one.facts == other.facts
    assert of_event(one, one.observation, 1).facts == of_event(other, other.observation, 1).facts


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the path of every value in a JSON document."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*path, index))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Give a copy with another value in one place."""
    if not path:
        return value
    first, *rest = path
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[first] = with_value(document[first], tuple(rest), value)
    return copy


STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=8),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


@given(event_type=st.sampled_from(sorted(GOLDEN)), shape=st.sampled_from(Shape), data=st.data())
def test_whatever_one_field_of_a_golden_payload_holds_it_is_understood_or_malformed(
    event_type: str, shape: Shape, data: st.DataObject
) -> None:
    """Nothing else is ever raised, and what is understood is whole: it has a view and a place in the order of its register."""
    document = json.loads(payload(event_type, shape))
    path = data.draw(st.sampled_from(sorted(paths(document), key=repr)))
    try:
        event = read_event(with_value(document, path, data.draw(STRANGE)))
    except MalformedError:
        return
    if event.observation is not None:
        assert of_event(event, event.observation, 1).view == event.observation.view


@pytest.mark.parametrize("event_type", sorted(GOLDEN))
def test_an_object_without_an_id_or_of_another_kind_is_malformed(event_type: str) -> None:
    document = json.loads(payload(event_type, Shape.NEW))
    for wrong in ({"id": None}, {"id": 7}, {"object": "balloon"}, {"object": None}):
        with pytest.raises(MalformedError):
            read_event(with_value(document, ("data", "object"), document["data"]["object"] | wrong))


@pytest.mark.parametrize("event_type", [one for one in sorted(GOLDEN) if GOLDEN[one].kind not in STATELESS])
def test_a_status_that_stripe_invents_is_not_half_read(event_type: str) -> None:
    """Every enum of Stripe's is open. Neither a grant nor a revocation may come of a word that nobody knows: it waits."""
    document = json.loads(payload(event_type, Shape.NEW, status="hibernating"))
    with pytest.raises(MalformedError, match="status"):
        read_event(document)
