"""What a schedule is sent says of the phase that runs what the subscription is."""

from __future__ import annotations

from typing import Any

from billing_service.domain.subscription_schedule import schedule_body

MONTH = {"interval": "month", "interval_count": 1}


def item(item_id: str, price_id: str, quantity: int, **more: Any) -> dict[str, Any]:
    """Give a subscription's item."""
    return {"id": item_id, "price": {"id": price_id}, "quantity": quantity, "current_period_end": 200, **more}


def test_an_item_that_was_put_there_past_the_schedule_keeps_its_terms() -> None:
    held = [
        item("si_1", "price_pro", 1, discounts=["di_1"], tax_rates=[{"id": "txr_1"}], metadata={"by": "hand"}),
        item("si_2", "price_seats", 5),
    ]
    phase = {"start_date": 100, "items": [{"price": "price_seats", "quantity": 2, "metadata": {"of": "the phase"}}]}
    schedule = {"status": "active", "current_phase": {"start_date": 100}, "phases": [phase]}
    change = {"item": {"price": "price_team", "quantity": 3}, "metadata": {}, "mark": {}}
    body = schedule_body(schedule, {"status": "active", "items": {"data": held}}, held[0], MONTH, change)
    terms = {"discounts": [{"discount": "di_1"}], "tax_rates": ["txr_1"], "metadata": {"by": "hand"}}
    seats = {"price": "price_seats", "quantity": 5, "metadata": {"of": "the phase"}}
    assert [one["items"] for one in body["phases"]] == [
        [{"price": "price_pro", "quantity": 1, **terms}, seats],
        [{"price": "price_team", "quantity": 3, **terms}, seats],
    ]
