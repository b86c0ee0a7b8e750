"""What was bought twice: two of one plan group that give at the same time, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path

import pytest

from billing_service.domain.bought_twice import BoughtTwice, bought_twice
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.facts import CustomerFacts, PurchaseFacts
from billing_service.domain.frozen import replace as with_
from billing_service.domain.payments import DisputeStanding
from billing_service.domain.plan_index import PlanIndex

CATALOG = parse_catalog((Path(__file__).parents[3] / "catalog.toml").read_text())
DAY = 86_400
START = 1_790_000_000
MONTH_PASS = replace(CATALOG.plans["export_pass"], group="passes", duration=timedelta(days=30))
PLANS = {
    "month": replace(MONTH_PASS, plan_key="month"),
    "for_ever": replace(MONTH_PASS, plan_key="for_ever", duration=None),
    "alone": replace(MONTH_PASS, plan_key="alone", group=None),
    "other": replace(MONTH_PASS, plan_key="other", group="others"),
}
INDEX = PlanIndex(replace(CATALOG, plans={**CATALOG.plans, **PLANS}))


def paid(session_id: str, day: int = 0, plan: str = "month") -> PurchaseFacts:
    """Give a purchase that was paid on a day."""
    at = START + day * DAY
    return PurchaseFacts(checkout_session_id=session_id, plan_key=plan, quantity=1, created=at, paid_time=at)


FIRST = paid("cs_1")
CASES = {
    "two at once": ([FIRST, paid("cs_2")], ("cs_1", "cs_2")),
    "again before the first has ended": ([FIRST, paid("cs_2", 29)], ("cs_1", "cs_2")),
    "again when the first has ended": ([FIRST, paid("cs_2", 30)], ()),
    "beside one that lasts for ever": ([paid("cs_1", 0, "for_ever"), paid("cs_2", 400)], ("cs_1", "cs_2")),
    "beside one that began long before": ([FIRST, paid("cs_2", 1), paid("cs_3", 30)], ("cs_1", "cs_2", "cs_3")),
    "another time, alone": ([FIRST, paid("cs_2", 1), paid("cs_3", 90)], ("cs_1", "cs_2")),
    "of two groups": ([FIRST, paid("cs_2", 0, "other")], ()),
    "of no group": ([paid("cs_1", 0, "alone"), paid("cs_2", 0, "alone")], ()),
    "refunded": ([FIRST, with_(paid("cs_2"), fully_refunded=True)], ()),
    "disputed": ([FIRST, with_(paid("cs_2"), dispute=DisputeStanding.OPEN)], ()),
    "not paid yet": ([FIRST, with_(paid("cs_2"), paid_time=None)], ()),
}


@pytest.mark.parametrize("name", CASES)
def test_purchases_of_one_group_that_give_at_the_same_time_are_bought_twice(name: str) -> None:
    """In whichever order they are known."""
    purchases, ids = CASES[name]
    expected = [BoughtTwice("passes", (), ids)] if ids else []
    for order in permutations(purchases):
        assert bought_twice(CustomerFacts(purchases=tuple(order)), INDEX) == expected
