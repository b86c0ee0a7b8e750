"""What a price's table may say of what is charged."""

from __future__ import annotations

import pytest

from billing_service.domain.catalog import Charge, Interval, Price
from billing_service.domain.catalog_file import CatalogError, parse_catalog

FILE = """\
default_plan = "free"
features = {}
[plans.free]
name = "Free"
mode = "free"
[plans.pro]
name = "Pro"
mode = "MODE"
[[plans.pro.prices]]
key = "one"
lookup_key = "pro_one"
"""


def price_of(mode: str, keys: str) -> Price:
    (price,) = parse_catalog(FILE.replace("MODE", mode) + keys).plans["pro"].prices
    return price


@pytest.mark.parametrize(
    ("mode", "keys", "charge", "said"),
    [
        ("subscription", "", None, "None"),
        (
            "subscription",
            'amount_minor = 1200\ncurrency = "eur"\ninterval = "month"',
            Charge(1200, "eur", Interval.MONTH),
            "1200 eur per month",
        ),
        (
            "subscription",
            'amount_minor = 0\ncurrency = "jpy"\ninterval = "week"\ninterval_count = 2',
            Charge(0, "jpy", Interval.WEEK, 2),
            "0 jpy per 2 weeks",
        ),
        ("payment", 'amount_minor = 2500\ncurrency = "eur"', Charge(2500, "eur"), "2500 eur once"),
    ],
)
def test_reads_what_is_charged(mode: str, keys: str, charge: Charge | None, said: str) -> None:
    """All of it, or nothing where the file leaves it to Stripe; and an operator is told it in one way."""
    price = price_of(mode, keys)
    assert (price.charge, str(price.charge)) == (charge, said)


@pytest.mark.parametrize(
    ("mode", "keys", "problem"),
    [
        ("subscription", "amount_minor = 1", "currency is missing: amount_minor, currency, interval go together"),
        ("subscription", 'amount_minor = 1\ncurrency = "eur"', "interval is missing"),
        ("payment", 'currency = "eur"', "amount_minor is missing: amount_minor, currency go together"),
        ("payment", 'amount_minor = 1\ncurrency = "eur"\ninterval = "month"', "this one is paid once"),
        ("payment", 'amount_minor = 1\ncurrency = "EUR"', "ISO 4217"),
        ("payment", 'amount_minor = 1\ncurrency = "euro"', "ISO 4217"),
        ("payment", 'amount_minor = 12.5\ncurrency = "eur"', "must be an integer, not a decimal number"),
        ("payment", 'amount_minor = -1\ncurrency = "eur"', "must be between 0"),
        ("subscription", 'amount_minor = 1\ncurrency = "eur"\ninterval = "monthly"', 'did you mean "month"'),
        (
            "subscription",
            'amount_minor = 1\ncurrency = "eur"\ninterval = "year"\ninterval_count = 4',
            "must be between 1 and 3",
        ),
    ],
)
def test_names_what_does_not_hold(mode: str, keys: str, problem: str) -> None:
    """Half a charge, or one of another mode, stops the start in a sentence instead of making a wrong price."""
    with pytest.raises(CatalogError) as caught:
        price_of(mode, keys)
    assert problem in str(caught.value)
    assert "plans.pro.prices[0]" in str(caught.value)
