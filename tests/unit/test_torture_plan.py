"""The seed of a torture decides the lives that are led, and the truth that they are compared with is the domain's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.plan_index import PlanIndex
from tests.torture.lives import _DEEDS
from tests.torture.plan import EPOCH_LIMIT_S, Deed, epoch_of
from tests.torture.stage import CATALOG
from tests.torture.truth import entitlements_of

_NOW = 1_800_000_000


def test_a_seed_leads_the_same_lives_again() -> None:
    assert epoch_of(3, 1, 9, 6) == epoch_of(3, 1, 9, 6)
    assert epoch_of(3, 1, 9, 6) != epoch_of(4, 1, 9, 6)


def test_an_epoch_ends_before_stripe_forgets_its_events() -> None:
    for seed in range(20):
        epoch = epoch_of(seed, 0, 5, 12)
        assert 0 < sum(one.advance_s for one in epoch.rounds) <= EPOCH_LIMIT_S


def test_every_deed_is_done_by_somebody_and_every_crash_comes() -> None:
    """Among a few epochs nothing of what can happen is missing."""
    rounds = [one for number in range(6) for one in epoch_of(1, number, 20, 10).rounds]
    assert {step.deed for one in rounds for step in one.steps} == set(Deed) == set(_DEEDS)
    assert len({one.crash for one in rounds}) == 4  # three programs, and none


def _purchase(**changes: Any) -> dict[str, Any]:
    session = {
        "id": "cs_1",
        "object": "checkout.session",
        "customer": "cus_1",
        "status": "complete",
        "payment_status": "paid",
        "mode": "payment",
        "created": _NOW - 100,
        "amount_total": 2500,
        "payment_intent": "pi_1",
        "metadata": {"billing_plan_key": "pass", "billing_quantity": "1"},
    }
    return session | changes


def test_the_truth_is_what_the_objects_say_with_what_only_events_say() -> None:
    """A paid pass gives its feature from the moment of the payment on; a full refund takes it away."""
    plans = PlanIndex(parse_catalog(CATALOG.read_text()))
    paid = {"checkout_sessions": [_purchase()], "notes": {"cs_1": {"paid_at": _NOW - 50}}}
    given = entitlements_of("ann", paid, plans, datetime.fromtimestamp(_NOW, UTC))
    assert sorted(given.plan_keys) == ["free", "pass"]
    assert given.sources[0].start_time == datetime.fromtimestamp(_NOW - 50, UTC)
    refund = {"id": "re_1", "object": "refund", "status": "succeeded", "amount": 2500, "payment_intent": "pi_1"}
    taken = entitlements_of("ann", {**paid, "refunds": [refund]}, plans, datetime.fromtimestamp(_NOW, UTC))
    assert taken.plan_keys == ("free",)
