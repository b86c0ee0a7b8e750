"""The numbers for Prometheus: bounded labels, and alerts that ask only for what exists."""

from __future__ import annotations

import pytest

from billing_service.flows.request_budget import Budget, Spender
from billing_service.metrics import Metrics
from billing_service.storage.tally import Tally
from tools import metrics as checked
from webhook_gateway.metrics import Metrics as GatewayMetrics
from webhook_gateway.signature import SignatureFault

TALLY = Tally({"malformed": 2}, {"drift": 1}, 3, 4.5, 1, 2, 7.0)
RECONCILED_UNTIL = 1_790_000_000


def sample(page: bytes, line: str) -> bool:
    return line in page.decode().splitlines()


def test_everything_that_alerts_and_dashboard_ask_for_exists_and_every_alert_has_its_page() -> None:
    assert list(checked.problems(checked.known())) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(billing_no_such_total[5m])", "there is no metric billing_no_such_total"),
        ('billing_events_total{colour="red"}', "billing_events_total has no label colour"),
        ("sum by (colour) (billing_rereads)", "no metric here has a label colour"),
    ],
)
def test_a_metric_or_label_that_is_not_there_is_named(expression: str, problem: str) -> None:
    assert checked.problems_of(expression, checked.known()) == [problem]


def test_types_that_the_service_does_not_handle_count_as_one() -> None:
    found = Metrics()
    for number in range(1_000):
        found.event(f"made.up.{number}", "ignored", 0.1)
    found.event("invoice.paid", "applied", 0.1)
    found.event(None, "quarantined", None)
    assert sample(found.page(), 'billing_events_total{outcome="ignored",type="other"} 1000.0')
    assert sample(found.page(), 'billing_events_total{outcome="applied",type="invoice.paid"} 1.0')
    assert sample(found.page(), 'billing_events_total{outcome="quarantined",type="other"} 1.0')
    assert sample(found.page(), "billing_event_latency_seconds_count 1001.0")


def test_types_at_the_gateway_are_bounded_too() -> None:
    found = GatewayMetrics()
    for number in range(1_000):
        found.webhook(f"made.up.{number}", "main", "applied", 200, 0.01)
    found.webhook(None, None, "signature_mismatch", 400, 0.01)
    page = found.page()
    assert page.count(b"gateway_webhooks_total{") == 302
    assert sample(page, 'gateway_webhooks_total{outcome="applied",status="200",type="other"} 700.0')
    assert sample(page, 'gateway_webhooks_total{outcome="signature_mismatch",status="400",type="none"} 1.0')
    assert sample(page, 'gateway_signatures_total{secret="main"} 1000.0')


@pytest.mark.parametrize(
    ("outcome", "status", "answer"),
    [
        ("applied", 200, "taken"),
        ("duplicate", 200, "taken"),
        *((fault.value, 400, "signature") for fault in SignatureFault),
        ("livemode_mismatch", 400, "livemode"),
        ("body_not_json", 400, "unreadable"),
        ("body_too_large", 413, "unreadable"),
        ("not_available", 503, "not_committed"),
        ("internal", 500, "not_committed"),
        ("overloaded", 503, "overloaded"),
    ],
)
def test_every_answer_of_the_gateway_counts_in_a_word_that_begins_at_nothing(
    outcome: str, status: int, answer: str
) -> None:
    """So that the first refusal after a start is a rise, whatever its type: an alert sees it at the lowest traffic."""
    found = GatewayMetrics()
    assert sample(found.page(), f'gateway_answers_total{{answer="{answer}"}} 0.0')
    found.webhook(None, None, outcome, status, None)
    assert sample(found.page(), f'gateway_answers_total{{answer="{answer}"}} 1.0')
    assert sample(found.page(), "gateway_webhook_duration_seconds_count 0.0"), "turned away is no time to answer"


def test_what_is_told_apart_is_counted_apart_at_the_gateway() -> None:
    """Counters are looked up once and kept: none may stand in for another."""
    found = GatewayMetrics()
    for secret in ("main", "rolled"):
        for status, outcome in ((200, "applied"), (200, "duplicate"), (503, "not_available")):
            for _time in range(2):
                found.webhook("invoice.paid", secret, outcome, status, 0.01)
    page = found.page()
    for outcome, status in (("applied", 200), ("duplicate", 200), ("not_available", 503)):
        assert sample(page, f'gateway_webhooks_total{{outcome="{outcome}",status="{status}",type="invoice.paid"}} 4.0')
    assert sample(page, 'gateway_answers_total{answer="taken"} 8.0')
    assert sample(page, 'gateway_answers_total{answer="not_committed"} 4.0')
    assert sample(page, 'gateway_signatures_total{secret="main"} 6.0')
    assert sample(page, 'gateway_signatures_total{secret="rolled"} 6.0')


def test_what_the_database_knows_is_not_shown_before_it_was_asked() -> None:
    """A process that starts is no rise from 0 to what there is: neither drift nor missed events."""
    found = Metrics()
    assert b"billing_drift" not in found.page()
    assert sample(found.page(), "billing_tally_timestamp_seconds 0.0"), "and that nobody asked is seen"
    for _look in range(2):
        found.tallied(TALLY, RECONCILED_UNTIL)
        assert sample(found.page(), "billing_drift 1.0")
        assert sample(found.page(), "billing_missed_events 2.0")


def test_what_is_no_longer_there_is_no_longer_shown() -> None:
    found = Metrics()
    found.tallied(TALLY, RECONCILED_UNTIL)
    assert sample(found.page(), 'billing_quarantined_events{reason="malformed"} 2.0')
    found.tallied(Tally({}, {}, 0, 0.0, 0, 0, 0.0), 0)
    assert b'reason="malformed"' not in found.page()
    assert sample(found.page(), "billing_rereads 0.0")


def test_prices_that_stand_for_nothing_are_shown_by_whose_they_are() -> None:
    found, held = Metrics(), ["price_1"]
    found.show_prices({"catalog": lambda: 0.0, "customers": lambda: float(len(held))})
    assert sample(found.page(), 'billing_unresolved_prices{of="customers"} 1.0')
    held.clear()
    assert sample(found.page(), 'billing_unresolved_prices{of="customers"} 0.0')
    assert sample(found.page(), 'billing_unresolved_prices{of="catalog"} 0.0')


def test_a_number_is_read_when_somebody_looks() -> None:
    found, now = Metrics(), [1.0]
    found.show(
        lambda: 1.0, {"in_use": lambda: now[0], "most": lambda: 10.0}, {"live": lambda: 0.0}, lambda: 2.0, Budget()
    )
    now[0] = 7.0
    assert sample(found.page(), 'billing_connections{state="in_use"} 7.0')
    assert sample(found.page(), 'billing_connections{state="most"} 10.0')
    assert sample(found.page(), "billing_watches 2.0")


def test_the_first_denial_is_a_rise_from_nothing() -> None:
    found = Metrics()
    assert sample(found.page(), "billing_stripe_denials_total 0.0")
    found.request("customers.create", "denied", 0.1)
    assert sample(found.page(), "billing_stripe_denials_total 1.0")


def test_the_budget_of_requests_is_shown_with_what_is_left_kept_and_spent() -> None:
    found = Metrics()
    found.show(lambda: 1.0, {}, {}, lambda: 0.0, Budget(burst=20, reserve=5))
    found.tallied(TALLY, RECONCILED_UNTIL)
    found.spent(Spender.PEOPLE)
    for share, number in {"left": 7.0, "reserve": 5.0, "most": 20.0}.items():
        assert sample(found.page(), f'billing_stripe_budget{{share="{share}"}} {number}')
    assert sample(found.page(), 'billing_stripe_budget_spent_total{spender="people"} 1.0')


def test_a_change_that_a_clock_puts_into_the_future_is_visible_at_once() -> None:
    found = Metrics()
    found.visible(-3.0)
    assert sample(found.page(), 'billing_change_visible_seconds_bucket{le="0.005"} 1.0')
