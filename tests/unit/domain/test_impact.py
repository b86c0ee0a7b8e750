"""Which way a value changes, and what is counted of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from billing_service.domain.catalog import UNLIMITED
from billing_service.domain.entitlement import Entitlement, Entitlements
from billing_service.domain.impact import EXAMPLES, Direction, Impact, Shown, changes_between

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def answer(value: Shown) -> Entitlements:
    """Give an answer with one feature; without any for None."""
    given = () if value is None else (Entitlement("f", value, None, None),)
    return Entitlements("ann", 1, given, (), (), NOW, None, "v")


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        (False, True, Direction.GAIN),
        (True, False, Direction.LOSS),
        (3, 5, Direction.GAIN),
        (5, 3, Direction.LOSS),
        (5, UNLIMITED, Direction.GAIN),
        (UNLIMITED, 10**12, Direction.LOSS),
        (UNLIMITED, 0, Direction.LOSS),
        ("", "e-mail", Direction.GAIN),
        ("priority", "e-mail", Direction.OTHER),
        ("priority", "", Direction.LOSS),
        (None, True, Direction.GAIN),  # a new feature
        (7, None, Direction.LOSS),  # a feature that is gone
        (True, 1, Direction.OTHER),  # a feature of another type
        ("a", "a", None),
        (5, 5, None),
        (UNLIMITED, UNLIMITED, None),
        (None, False, None),
        (0, None, None),
    ],
)
def test_which_way_a_value_changes(before: Shown, after: Shown, direction: Direction | None) -> None:
    """More is a gain, less a loss, and to whom a feature gives nothing, its coming and going is nothing."""
    changes = changes_between(answer(before), answer(after))
    assert [change.direction for change in changes] == ([direction] if direction else [])


def test_counts_everybody_and_names_a_few() -> None:
    """The sums do not grow with the customers: a handful of examples for each line."""
    impact = Impact()
    loss = changes_between(answer(5), answer(3))
    for number in range(100):
        impact.add(f"c{number:03}", loss if number % 2 else ())
    line = impact.lines["f", Direction.LOSS]
    assert (impact.customers, impact.changing, impact.losing, impact.gaining) == (100, 50, 50, 0)
    assert (line.customers, [one.customer_id for one in line.examples][:2]) == (50, ["c001", "c003"])
    assert len(line.examples) == EXAMPLES
    assert impact.any_loss
    assert impact.any_change


@pytest.mark.parametrize(
    ("impact", "loss", "change"),
    [
        (Impact(), False, False),
        (Impact(vanished={"pro": 1}), True, True),
        (Impact(newcomers=changes_between(answer(3), answer(5))), False, True),
        (Impact(newcomers=changes_between(answer(5), answer(3))), True, True),
    ],
)
def test_what_concerns_newcomers_and_a_plan_that_is_gone_counts_too(
    impact: Impact, *, loss: bool, change: bool
) -> None:
    assert (impact.any_loss, impact.any_change) == (loss, change)
