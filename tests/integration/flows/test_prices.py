"""Prices: what ever resolved to a plan is remembered, whichever way lookup keys move."""

from __future__ import annotations

import pytest

from billing_service.storage import prices
from billing_service.storage.database import Database
from billing_service.storage.prices import PriceRow

MONTHLY, YEARLY = ("pro", "monthly"), ("pro", "yearly")


def row(price_id: str, pair: tuple[str, str]) -> PriceRow:
    return PriceRow(price_id, *pair, lookup_key="_".join(pair), active=True, current=True)


@pytest.mark.parametrize("swapped", [("price_a", "price_b"), ("price_b", "price_a"), ("price_b", "price_c")])
async def test_lookup_keys_may_move_between_prices_in_any_way(database_url: str, swapped: tuple[str, str]) -> None:
    database = Database(database_url)
    checked = [MONTHLY, YEARLY]
    for monthly, yearly in (("price_a", "price_b"), swapped):
        rows = [row(monthly, MONTHLY), row(yearly, YEARLY)]
        await database.run(lambda c, rows=rows: prices.remember(c, checked, rows))  # type: ignore[misc] # bound now
    known = {one.price_id: one for one in await database.run(prices.load_all)}
    await database.close()
    assert (known[swapped[0]].price_key, known[swapped[1]].price_key) == ("monthly", "yearly")
    assert {one.price_id for one in known.values() if one.current} == set(swapped)
    assert known.keys() >= {"price_a", "price_b"}
