"""The prices of one plan in the catalog's file: their tables -> Price, with a note for each rule that does not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

from billing_service.domain.catalog import Charge, Interval, PlanMode, Price
from billing_service.domain.toml_table import Table

MAX_PRICES_OF_PLAN = 20
MAX_LOOKUP_KEY_CHARS = 200  # Stripe's limit: https://docs.stripe.com/api/prices/create#create_price-lookup_key
MAX_AMOUNT_MINOR = 999_999_999_999  # twelve digits, the most that Stripe takes of any: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts
# Three years: https://docs.stripe.com/api/prices/create#create_price-recurring-interval_count
MAX_INTERVALS: Mapping[Interval, int] = {
    Interval.DAY: 1095,
    Interval.WEEK: 156,
    Interval.MONTH: 36,
    Interval.YEAR: 3,
}

_CHARGE_KEYS = ("amount_minor", "currency", "interval", "interval_count")
_PRICE_KEYS = ("key", "lookup_key", "text", *_CHARGE_KEYS)
_CURRENCY = re.compile(r"[a-z]{3}")


def read_prices(plan: Table, mode: PlanMode | None) -> tuple[Price, ...]:
    """Read a plan's prices; what does not hold is noted. `mode` is None where the plan's own does not hold."""
    prices: dict[str, Price] = {}
    for table in plan.tables("prices", most=MAX_PRICES_OF_PLAN):
        table.refuse_unknown(_PRICE_KEYS)
        price = Price(
            table.key("key"), table.text("lookup_key"), table.text("text", default=""), _read_charge(table, mode)
        )
        if price.price_key and price.price_key in prices:
            table.note("key", f'is "{price.price_key}", as that of an earlier price of this plan')
        if len(price.lookup_key) > MAX_LOOKUP_KEY_CHARS:
            table.note("lookup_key", f"must have at most {MAX_LOOKUP_KEY_CHARS} characters: Stripe takes no more")
        prices.setdefault(price.price_key, price)
    return tuple(prices.values())


def _read_charge(table: Table, mode: PlanMode | None) -> Charge | None:
    """Give what is to be charged; None where the file leaves it to Stripe, or after a note."""
    if not any(key in table.values for key in _CHARGE_KEYS):
        return None
    needed = ["amount_minor", "currency"]
    if mode is PlanMode.SUBSCRIPTION:
        needed.append("interval")
    for key in needed:
        if key not in table.values:
            table.note(key, f"is missing: {', '.join(needed)} go together, or are all left to Stripe")
    if mode is PlanMode.PAYMENT:
        for key in ("interval", "interval_count"):
            if key in table.values:
                table.note(key, 'is for plans of mode "subscription"; this one is paid once')
    if any(key not in table.values for key in needed):
        return None
    amount_minor = table.integer("amount_minor", least=0, most=MAX_AMOUNT_MINOR, default=0)
    currency = table.text("currency")
    if currency and not _CURRENCY.fullmatch(currency):
        table.note("currency", 'must be a code of ISO 4217 in lower case, as "eur"')
    interval = table.choice("interval", Interval) if mode is PlanMode.SUBSCRIPTION else None
    return Charge(amount_minor, currency, interval, _read_interval_count(table, interval))


def _read_interval_count(table: Table, interval: Interval | None) -> int:
    if interval is None:
        return 1
    return table.integer("interval_count", least=1, most=MAX_INTERVALS[interval], default=1)
