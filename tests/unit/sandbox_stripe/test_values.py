from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.stripe.errors import RefusedBeforeExecutionError
from sandbox.stripe.form import FIELD_LIMIT, decode_form
from sandbox.stripe.identifiers import kind_of, new_id
from sandbox.stripe.intervals import period_end
from sandbox.stripe.money import shown_amount
from sandbox.stripe.objects import Kind
from sandbox.stripe.seed import amount_of, interval_of


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [
        ("€12 per month", 1200, "eur"),
        ("$9.50 per seat and month", 950, "usd"),
        ("1.200,50 €", 120, "eur"),  # thousands by a dot are not read; the amount is for show
        ("€1,200 per year", 120_000, "eur"),
        ("12,90 EUR", 1290, "eur"),
        ("¥500", 500, "jpy"),
        ("120 CHF a year", 12_000, "chf"),
        ("ask us", 1000, "eur"),
        ("", 1000, "eur"),
    ],
)
def test_an_amount_is_read_off_a_prices_text(text: str, amount: int, currency: str) -> None:
    assert amount_of(text) == (amount, currency)


@pytest.mark.parametrize(
    ("key", "interval"),
    [
        ("monthly", "month"),
        ("yearly", "year"),
        ("annually", "year"),
        ("weekly", "week"),
        ("daily", "day"),
        ("std", "month"),
    ],
)
def test_an_interval_is_read_off_a_prices_key(key: str, interval: str) -> None:
    assert interval_of(key) == interval


def test_amounts_are_written_as_people_read_them() -> None:
    assert [shown_amount(*a) for a in [(120_050, "eur"), (5, "usd"), (500, "jpy"), (900, "chf")]] == [
        "€1,200.50",
        "$0.05",
        "¥500",
        "9.00 CHF",
    ]


@pytest.mark.parametrize(
    ("anchor", "after", "interval", "count", "end"),
    [
        ("2026-01-31", "2026-01-31", "month", 1, "2026-02-28"),
        ("2026-01-31", "2026-02-28", "month", 1, "2026-03-31"),  # back to the anchor's day
        ("2024-02-29", "2024-02-29", "year", 1, "2025-02-28"),
        ("2026-12-15", "2026-12-15", "month", 3, "2027-03-15"),
        ("2026-12-28", "2026-12-28", "week", 2, "2027-01-11"),
        ("2026-01-15", "2027-06-20", "month", 1, "2027-07-15"),
    ],
)
def test_periods_end_on_the_anchors_day_or_the_months_last(
    anchor: str, after: str, interval: str, count: int, end: str
) -> None:
    assert period_end(_second(anchor), _second(after), interval, count) == _second(end)


def _second(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a=1&b[c]=2&b[d][0]=3", {"a": "1", "b": {"c": "2", "d": {"0": "3"}}}),
        ("l[0][p]=x&l[1][p]=y", {"l": {"0": {"p": "x"}, "1": {"p": "y"}}}),
        ("e[]=x&e[]=y", {"e": {"0": "x", "1": "y"}}),
        ("m%5Bk%5D=%00%C3%A9&n=", {"m": {"k": "\0é"}, "n": ""}),
        ("", {}),
    ],
)
def test_a_form_nests_by_its_brackets(text: str, form: dict[str, Any]) -> None:
    assert decode_form(text) == form


@pytest.mark.parametrize(
    "text",
    [
        "a=1&a[b]=2",
        "a[b]=1&a=2",
        "[a]=1",
        "a[b=1",
        "a" + "[b]" * 8 + "=1",
        "a=%FF",
        "&".join(["a=1"] * (FIELD_LIMIT + 1)),
    ],
)
def test_a_form_that_cannot_be_nested_is_refused(text: str) -> None:
    with pytest.raises(RefusedBeforeExecutionError):
        decode_form(text)


# A coupon's id is what customers type, and tells nothing.
@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.startswith("_") and kind is not Kind.COUPON])
def test_an_id_tells_its_kind(kind: Kind) -> None:
    assert kind_of(new_id(kind)) is kind
