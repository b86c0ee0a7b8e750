"""Amounts as people read them."""

from __future__ import annotations

from sandbox.stripe.seed import ZERO_DECIMAL_CURRENCIES

_SIGNS = {"eur": "€", "usd": "$", "gbp": "£", "jpy": "¥"}


def shown_amount(minor: int, currency: str) -> str:
    """Write minor units of a currency: 120000 eur is "€1,200.00"."""
    number = f"{minor:,}" if currency in ZERO_DECIMAL_CURRENCIES else f"{minor // 100:,}.{minor % 100:02}"
    sign = _SIGNS.get(currency)
    return f"{sign}{number}" if sign else f"{number} {currency.upper()}"
