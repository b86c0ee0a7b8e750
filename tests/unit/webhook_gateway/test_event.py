"""The head of an event is read from whatever Stripe signs, and nothing else gets through."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webhook_gateway.event import EventFault, EventHead, EventKind, EventRefusedError, _decode_in_parts, decode_head

# A shared machine is slow at times, and nothing here is about time.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HEAD = {"id": "evt_1", "type": "invoice.paid", "livemode": False}


def encode(**changes: object) -> bytes:
    return json.dumps({"object": "event", **HEAD, **changes}).encode()


def fault_of(body: bytes) -> EventFault:
    with pytest.raises(EventRefusedError) as refused:
        decode_head(body)
    return refused.value.fault


@pytest.mark.parametrize(
    ("name", "kind"),
    [("event", EventKind.SNAPSHOT), ("v2.core.event", EventKind.THIN), ("v9.event", EventKind.UNKNOWN)],
)
def test_reads_the_head_and_the_kind(name: str, kind: EventKind) -> None:
    head = decode_head(encode(object=name, data={"object": {"id": "sub_1"}}))
    assert head == EventHead(event_id="evt_1", type="invoice.paid", livemode=False, kind=kind)


@pytest.mark.parametrize(
    ("data", "customer"),
    [
        ({"object": {"id": "in_1", "object": "invoice", "customer": "cus_1"}}, "cus_1"),
        ({"object": {"id": "in_1", "object": "invoice", "customer": {"id": "cus_1", "object": "customer"}}}, "cus_1"),
        ({"object": {"id": "cus_1", "object": "customer"}}, "cus_1"),
        ({"object": {"id": "re_1", "object": "refund", "customer": None}}, None),
        ({"object": {"id": "re_1", "object": "refund"}}, None),
        ({"object": {"id": "in_1", "customer": 7}}, None),
        ({"object": 7}, None),
        (7, None),
    ],
)
def test_says_whom_it_is_about_where_that_can_be_read(data: object, customer: str | None) -> None:
    """It only decides which events travel together: none is refused for it."""
    assert decode_head(encode(data=data)).stripe_customer_id == customer


@pytest.mark.parametrize("text", [r"\ud800", r"\u0000", r"\udc00\ud800"])
def test_what_only_the_database_cannot_take_goes_on_to_the_service(text: str) -> None:
    """It keeps such an event in quarantine; refused here it would be lost after Stripe's last retry."""
    body = encode(data="MARK").replace(b"MARK", text.encode())
    assert decode_head(body).event_id == "evt_1"


@pytest.mark.parametrize("body", [b"\xff\xfe", encode(data="MARK").replace(b"MARK", b"\xc3\x28")])
def test_what_is_not_utf8_is_refused_wherever_it_stands(body: bytes) -> None:
    assert fault_of(body) is EventFault.NOT_UTF8


@pytest.mark.parametrize(
    "body",
    [b"", b"{", encode()[:-1], encode() + b"x", b"\xef\xbb\xbf" + encode(), encode()[:-1] + b',"x":' + b"[" * 100_000],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert fault_of(body) is EventFault.NOT_JSON


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"1",
        b"{}",
        encode(id=None),
        encode(id=""),
        encode(id=7),
        encode(id="evt 1"),
        encode(id="evt_\n"),
        encode(id="evt_1\n"),
        encode(id="e" * 256),
        encode(type=""),
        encode(type=["invoice.paid"]),
        encode(livemode=None),
        encode(livemode="false"),
        encode(object=1),
        json.dumps({"id": "evt_1", "livemode": True}).encode(),
        json.dumps({"id": "evt_1", "type": "invoice.paid"}).encode(),
        encode(id="MARK").replace(b"MARK", rb"\ud800"),
    ],
)
def test_what_is_not_an_event_is_refused(body: bytes) -> None:
    assert fault_of(body) is EventFault.NOT_AN_EVENT


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "type", "livemode", "object", "x"]), inner),
)


_customer = st.none() | st.text(st.characters()) | st.integers() | st.fixed_dictionaries({"id": st.text() | st.none()})
_object = _json | st.fixed_dictionaries(
    {}, optional={"id": st.text(), "object": st.sampled_from(["customer", "invoice", 7]), "customer": _customer}
)


@unhurried
@given(_json | st.fixed_dictionaries({"object": _object}))
def test_in_one_pass_it_is_read_as_in_parts(data: object) -> None:
    """What is usual is read at once, everything else head first and `data` by itself: no event may mean something else by that."""
    body = encode(data=data)
    _, customer = _decode_in_parts(body)
    assert decode_head(body).stripe_customer_id == customer


@unhurried
@given(st.binary() | _json.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_the_refusal(body: bytes) -> None:
    try:
        head = decode_head(body)
    except EventRefusedError:
        return
    assert head.event_id
    assert head.type
