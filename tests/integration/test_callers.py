"""A few short lives through the API; the long ones are `make callers`."""

from __future__ import annotations

import random

import pytest

from tests.callers.life import Life
from tests.callers.stage import Stage

STEPS = 25


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_callers_ask_for_and_whatever_goes_wrong_stripe_has_what_they_were_answered(
    database_url: str, seed: int
) -> None:
    """Each change once, at the price of its preview; a refusal changes nothing; at rest everybody has what Stripe says."""
    async with Stage(database_url) as stage:
        await Life(stage, f"caller-{seed}", random.Random(f"callers/{seed}")).lead(STEPS)
