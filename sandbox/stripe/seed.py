"""Products and prices of a catalog, so that what the service sells can be bought here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sandbox.stripe import prices, products
from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object

AMOUNT_DEFAULT = 1000  # minor units, of prices whose text names no amount
CURRENCY_DEFAULT = "eur"
ZERO_DECIMAL_CURRENCIES = frozenset({"jpy", "krw", "vnd", "clp"})  # https://docs.stripe.com/currencies#zero-decimal

_SIGNS = {"€": "eur", "$": "usd", "£": "gbp", "¥": "jpy"}
_CODES = frozenset({"eur", "usd", "gbp", "jpy", "chf", "sek", "dkk", "nok", "pln", "cad", "aud"})
_AMOUNT = re.compile(r"\d{1,3}(?:[,'  ]\d{3})+(?:\.\d{1,2})?|\d+(?:[.,]\d{1,2})?")
_INTERVALS = {"year": "year", "annual": "year", "month": "month", "week": "week", "dai": "day", "day": "day"}


def seed(account: Account, catalog: Mapping[str, Any]) -> None:
    """Make what a parsed catalog.toml sells and the account lacks; a lookup key that exists is left as it is."""
    for plan_key, plan in catalog.get("plans", {}).items():
        for price in plan.get("prices", ()):
            if prices.by_lookup_key(account, price["lookup_key"]) is None:
                _price(account, _product(account, plan_key, plan), plan["mode"], price)


def amount_of(text: str) -> tuple[int, str]:
    """Read minor units and currency off a price's text: "€12 per month" is (1200, "eur")."""
    currency = next((code for sign, code in _SIGNS.items() if sign in text), None)
    currency = currency or next((word for word in text.lower().split() if word in _CODES), CURRENCY_DEFAULT)
    match = _AMOUNT.search(text)
    if match is None:
        return AMOUNT_DEFAULT, currency
    number = Decimal(_plain(match[0]))
    return int(number * (1 if currency in ZERO_DECIMAL_CURRENCIES else 100)), currency


def interval_of(price_key: str) -> str:
    """Tell the billing interval from a price's key: "yearly" is "year"; a month where the key says nothing."""
    return next((interval for part, interval in _INTERVALS.items() if part in price_key.lower()), "month")


def _plain(number: str) -> str:
    """Drop the separators of thousands; a comma before one or two last digits is a decimal point."""
    if re.search(r",\d{1,2}\Z", number):
        number = number.replace(",", ".")
    return re.sub(r"[,'  ]", "", number)


def _product(account: Account, plan_key: str, plan: Mapping[str, Any]) -> Object:
    product_id = f"prod_{plan_key}"
    found = account.store.get(Kind.PRODUCT, product_id)
    if found is not None:
        return found
    wanted = {"id": product_id, "name": plan.get("name", plan_key), "description": plan.get("description")}
    return products.create(account, {name: value for name, value in wanted.items() if value})


def _price(account: Account, product: Object, mode: str, price: Mapping[str, Any]) -> None:
    amount, currency = amount_of(price.get("text", ""))
    if "amount_minor" in price:
        amount, currency = price["amount_minor"], price["currency"]
    wanted = {
        "product": product["id"],
        "currency": currency,
        "unit_amount": amount,
        "lookup_key": price["lookup_key"],
        "nickname": price.get("text"),
    }
    interval = price.get("interval", interval_of(price["key"]))
    times = {"interval": interval, "interval_count": price.get("interval_count", 1)}
    recurring = {"recurring": times} if mode == "subscription" else {}
    prices.create(account, {**wanted, **recurring})
