"""What `frozen` makes is like a frozen dataclass in all that we use of it."""

from __future__ import annotations

import copy
import inspect
from dataclasses import KW_ONLY, InitVar, dataclass, field
from typing import Any

import msgspec
import pytest

from billing_service.domain.access import Source
from billing_service.domain.facts import NO_FACTS, CustomerFacts, PurchaseFacts, SubscriptionFacts
from billing_service.domain.frozen import frozen, replace
from billing_service.domain.grant import GrantFacts
from billing_service.domain.views import (
    ChargeView,
    CustomerView,
    DisputeView,
    InvoicePaymentView,
    InvoiceView,
    ItemView,
    RefundView,
    SessionView,
    SubscriptionView,
)


@frozen
class Made:
    """Ours."""

    name: str
    count: int = 3
    also: str | None = None

    @property
    def twice(self) -> int:
        """What it works out."""
        return 2 * self.count


@frozen
class More(Made):
    """One with more fields."""

    size: float = 0.5


@dataclass(frozen=True)
class Plain:
    """The standard library's."""

    name: str
    count: int = 3
    also: str | None = None


def test_it_is_what_the_standard_library_makes() -> None:
    """Made by position, by name and with defaults; compared, hashed, shown, replaced, copied and read alike."""
    made, plain = Made("a", also="b"), Plain("a", also="b")
    assert made == Made(name="a", count=3, also="b") != Made("a", 4, "b")
    assert {made, Made("a", also="b")} == {made}
    assert repr(made) == repr(plain).replace("Plain", "Made")
    assert replace(made, count=5) == Made("a", 5, "b")
    assert replace(plain, count=5) == Plain("a", 5, "b")
    assert copy.deepcopy(made) == copy.copy(made) == made
    assert msgspec.json.decode(msgspec.json.encode(made), type=Made) == made
    assert msgspec.json.decode(msgspec.json.encode(plain), type=Made) == made
    assert list(inspect.signature(Made).parameters) == list(inspect.signature(Plain).parameters)


@frozen(whole=True)
class Whole:
    """One that is written with all of its fields."""

    count: int = 3
    made: Made | None = None


def test_what_has_its_default_is_not_written() -> None:
    assert msgspec.json.encode(Made("a", also="b")) == b'{"name":"a","also":"b"}'


def test_of_what_is_whole_it_is_written_too() -> None:
    """Whoever reads the JSON may go by what is there; what it holds is written as it is elsewhere."""
    assert msgspec.json.encode(Whole(made=Made("a"))) == b'{"count":3,"made":{"name":"a"}}'
    assert msgspec.json.encode(NO_FACTS) == b'{"subscriptions":[],"purchases":[],"grants":[]}'


STORED = {
    CustomerFacts: {"subscriptions": (), "purchases": (), "grants": ()},
    SubscriptionFacts: {
        "collection_paused": False, "dispute": None, "customer_deleted": False, "invoice_failed": None,
        "paused_unpaid": False, "paid_apart": (),
    },
    PurchaseFacts: {"refunded": 0, "fully_refunded": False, "dispute": None, "customer_deleted": False},
    GrantFacts: {
        "end": None, "override": False, "plan_key": None, "quantity": 1, "feature_key": None, "value": None,
    },
    ItemView: {},
    SessionView: {"payment_intent_id": None, "amount": None},
    SubscriptionView: {"collection_paused": False, "paused_unpaid": False},
    InvoiceView: {"attempted": False, "due_date": None, "asks_nothing": False, "from_balance": 0},
    InvoicePaymentView: {}, ChargeView: {}, RefundView: {}, DisputeView: {}, CustomerView: {},
    Source: {"grant_id": None, "override": False},
}  # fmt: skip


@pytest.mark.parametrize("record", STORED)
def test_a_default_that_rows_were_written_by_stays_as_it_is(record: type[msgspec.Struct]) -> None:
    """Rows lack what had its default: another one would change what they say. A new field may come, with its line here."""
    defaults = record.__struct_defaults__
    named = record.__struct_fields__[len(record.__struct_fields__) - len(defaults) :]
    assert dict(zip(named, defaults, strict=True)) == STORED[record]


@pytest.mark.parametrize("other", [More("a"), Plain("a"), ("a", 3, None)])
def test_two_of_different_kinds_are_not_equal(other: object) -> None:
    assert Made("a") != other


def test_one_may_have_more_than_its_base() -> None:
    more = More("a", 3, None, 1.5)
    assert isinstance(more, Made)
    assert (more.name, more.size, more.twice) == ("a", 1.5, 6)
    assert replace(more, name="b") == More("b", 3, None, 1.5)


@pytest.mark.parametrize("one", [Made("a"), More("a")])
def test_nothing_changes_it(one: Made) -> None:
    with pytest.raises(AttributeError):
        one.name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del one.name
    with pytest.raises(AttributeError):
        one.other = "b"  # type: ignore[attr-defined]
    assert one.name == "a"


@pytest.mark.parametrize("given", [((), {}), (("a", 1, None, 2), {}), (("a",), {"other": 1}), (("a",), {"name": "b"})])
def test_what_is_missing_or_too_much_is_refused(given: tuple[tuple[object, ...], dict[str, object]]) -> None:
    with pytest.raises(TypeError):
        Made(*given[0], **given[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("one", [Made("a"), Plain("a")])
def test_a_field_that_there_is_not_cannot_be_replaced(one: Any) -> None:
    with pytest.raises(TypeError):
        replace(one, other=1)


def test_what_it_does_not_do_is_refused_when_the_class_is_made() -> None:
    """A factory, more to do at the start, fields that are none, bases of other kinds: the standard library has those."""

    class _Factory:
        names: list[str] = field(default_factory=list)

    class _Then:
        name: str

        def __post_init__(self) -> None:
            raise AssertionError

    class _Passing:
        name: str
        other: InitVar[int]

    class _Named:
        name: str
        _: KW_ONLY
        other: int

    class _FailureError(Exception):
        name: str

    class _Mixed(Made, _Then):
        size: int = 0

    class _MoreFactory(Made):
        names: list[str] = field(default_factory=list)

    class _MoreThen(Made):
        def __post_init__(self) -> None:
            raise AssertionError

    for kind in (_Factory, _Then, _Passing, _Named, _FailureError, _Mixed, _MoreFactory, _MoreThen):
        with pytest.raises(TypeError, match="plain"):
            frozen(kind)
